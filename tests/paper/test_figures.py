"""Figures are functions of committed rows, and the rows are what the package computes."""

import ast
import csv
from pathlib import Path

import pandas as pd
import pytest

from paper import make_figures as made
from paper.figures.data import read
from paper.make_figures import STUDIES, TRAININGS, make_figures
from paper.studies import drop_and_grow
from paper.studies.layer_sparsities import RESULTS, rows
from tests.helpers.synthetic_results import write_results

PAPER = Path(__file__).parents[2] / "paper"
COMMITTED = PAPER / "results"
FIGURE_FILES = sorted([*PAPER.glob("figures/*.py"), *PAPER.glob("tables/*.py"), PAPER / "make_figures.py"])


def test_the_committed_layer_sparsities_are_those_of_the_package():
    with open(RESULTS, encoding="utf-8") as file:
        committed = list(csv.DictReader(file))
    assert committed == [{key: str(value) for key, value in row.items()} for row in rows()]


def test_the_committed_mask_update_is_that_of_the_package():
    with open(drop_and_grow.RESULTS, encoding="utf-8") as file:
        committed = list(csv.DictReader(file))
    assert committed == [{key: str(value) for key, value in row.items()} for row in drop_and_grow.rows()]


def test_there_is_a_module_for_each_figure():
    assert sorted([*STUDIES, *TRAININGS]) == list(range(1, 12))


def test_without_rows_every_figure_is_named(tmp_path):
    lacking = make_figures(tmp_path, results=tmp_path)
    assert list(lacking) == list(range(1, 12))
    assert lacking[1] == "drop_and_grow.csv"
    # Dense; four curves at four sparsities, and pruning; three intervals, the usual one with ERK being there already.
    n_runs = 3 * (1 + 4 * 4 + 4 + 5)
    assert lacking[10].startswith(f"{n_runs} of {n_runs} runs; points without any: cifar10_wrn22-Dense")


def test_a_study_without_its_seeds_is_drawn_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "NUMBERS", [1, 6])
    for name in (name for number in (1, 6) for name in STUDIES[number].RESULTS):
        rows = pd.read_csv(COMMITTED / name)
        (rows[rows["seed"] == 0] if name == "escape.csv" else rows).to_csv(tmp_path / name, index=False)
    assert make_figures(tmp_path / "out", tmp_path) == {6: "2 of 3 seeds of escape.csv"}
    assert (tmp_path / "out" / "fig6.png").is_file()


class TestComplete:
    @pytest.fixture(scope="class")
    def results(self, tmp_path_factory):
        """All declared runs, with made-up numbers."""
        folder = tmp_path_factory.mktemp("results")
        (folder / "published.csv").write_bytes((COMMITTED / "published.csv").read_bytes())
        write_results(folder)
        return folder

    @pytest.fixture(scope="class")
    def runs(self, results):
        return read(results, "small")

    @pytest.mark.parametrize("number", TRAININGS)
    def test_a_figure_with_all_its_runs_lacks_nothing_and_every_curve_has_a_line(self, runs, number):
        n_runs, n_measured, points = made.missing(number, runs, "small")
        assert (n_measured, points) == (n_runs, [])
        figure = TRAININGS[number].draw(runs)
        shown = [axis for axis in figure.axes if axis.axison and axis.get_title()]
        assert shown
        for axis in shown:
            n_curves = len([line for line in axis.lines if len(line.get_xdata()) > 1])
            assert n_curves >= (1 if axis.get_title() == "SNFS" else 2)

    def test_figures_are_written_as_pdf_and_png(self, results, tmp_path, monkeypatch):
        monkeypatch.setattr(made, "NUMBERS", [9])
        assert make_figures(tmp_path, results) == {}
        assert (tmp_path / "fig9.pdf").stat().st_size > 1000
        assert (tmp_path / "fig9.png").stat().st_size > 1000

    def test_a_figure_of_a_single_run_is_drawn(self, results, tmp_path):
        table = pd.read_csv(results / "small.csv")
        one = table[(table["benchmark"] == "imagenet_resnet50") & (table["method"] == "RigL")].head(1)
        one.to_csv(tmp_path / "small.csv", index=False)
        (tmp_path / "published.csv").write_bytes((results / "published.csv").read_bytes())
        for number in (2, 7):
            TRAININGS[number].draw(read(tmp_path, "small"))


@pytest.mark.parametrize("path", FIGURE_FILES, ids=lambda path: path.stem)
def test_no_figure_and_no_table_needs_torch(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    assert not [name for name in modules if name.split(".")[0] in ("torch", "pytorch_lightning", "rigl_lightning")]
