"""Figures are functions of committed rows, and the rows are what the package computes."""

import ast
import csv
from pathlib import Path

import pytest

from paper.make_figures import FIGURES, make_figures
from paper.studies.layer_sparsities import RESULTS, rows

PAPER = Path(__file__).parents[2] / "paper"
FIGURE_FILES = sorted([*PAPER.glob("figures/*.py"), *PAPER.glob("tables/*.py"), PAPER / "make_figures.py"])


def test_the_committed_layer_sparsities_are_those_of_the_package():
    with open(RESULTS, encoding="utf-8") as file:
        committed = list(csv.DictReader(file))
    assert committed == [{key: str(value) for key, value in row.items()} for row in rows()]


def test_the_figures_that_have_rows_are_drawn_and_the_others_named(tmp_path):
    missing = make_figures(tmp_path)
    assert sorted([*missing, *FIGURES]) == list(range(1, 12))
    for number in FIGURES:
        assert (tmp_path / f"fig{number}.pdf").stat().st_size > 1000
        assert (tmp_path / f"fig{number}.png").stat().st_size > 1000
    assert make_figures(tmp_path, results=tmp_path) == list(range(1, 12))


@pytest.mark.parametrize("path", FIGURE_FILES, ids=lambda path: path.stem)
def test_no_figure_and_no_table_needs_torch(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    assert not [name for name in modules if name.split(".")[0] in ("torch", "pytorch_lightning", "rigl_lightning")]
