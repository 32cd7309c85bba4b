"""Figures are functions of committed rows, and the rows are what the package computes."""

import ast
import csv
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from paper import make_figures as made
from paper.experiments import CLAIM_SEEDS
from paper.figures import overview
from paper.figures.axes import error_axis
from paper.figures.catalogue import STUDIES, TRAININGS, missing
from paper.figures.data import own, read
from paper.make_figures import make_figures
from paper.make_tables import claims_table
from paper.protocols import PROTOCOLS
from paper.studies import drop_and_grow
from paper.studies.layer_sparsities import RESULTS, rows
from tests.helpers.synthetic_results import write_results, write_study

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
    # Dense; six curves at two sparsities; three intervals of two distributions, the usual one with ERK being there.
    n_runs = 3 * (1 + 6 * 2 + 5)
    assert lacking[10].startswith(f"{n_runs} of {n_runs} runs; points without any: cifar10_wrn22-Dense")


def test_a_study_without_its_seeds_is_drawn_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "NUMBERS", [1, 6])
    for name in STUDIES[1].RESULTS:
        (tmp_path / name).write_bytes((COMMITTED / name).read_bytes())
    write_study(tmp_path)
    escape = pd.read_csv(tmp_path / "escape.csv", dtype={"config_hash": str})
    escape[escape["seed"] == escape["seed"].min()].to_csv(tmp_path / "escape.csv", index=False)
    assert make_figures(tmp_path / "out", tmp_path) == {6: "2 of 3 seeds of escape.csv"}
    assert (tmp_path / "out" / "fig6.png").is_file()


class TestComplete:
    @pytest.fixture(scope="class")
    def results(self, tmp_path_factory):
        """All declared runs, with made-up numbers."""
        folder = tmp_path_factory.mktemp("results")
        write_results(folder)
        return folder

    @pytest.fixture(scope="class")
    def runs(self, results):
        return read(results, "small")

    @pytest.fixture(scope="class")
    def judged(self, results):
        return claims_table(results, "small")

    def test_rows_of_runs_that_are_not_declared_today_are_not_drawn(self, results, tmp_path):
        table = pd.read_csv(results / "small.csv", dtype={"config_hash": str})
        old = table.head(3).assign(config_hash="00000000")
        pd.concat([table.iloc[3:], old]).to_csv(tmp_path / "small.csv", index=False)
        drawn = own(read(tmp_path, "small"))
        assert len(drawn) == len(table) - 3
        assert set(drawn["seed"]) == set(CLAIM_SEEDS)

    def test_published_values_have_panels_of_their_own(self, runs, judged):
        for number in (2, 3, 4, 5, 7):
            figure = TRAININGS[number].draw(runs, judged)
            titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
            assert any(text.startswith("Published") for text in titles)
            assert all(text.startswith(("Measured", "Published")) for text in titles)

    def test_points_are_where_their_costs_are(self, runs, judged):
        for number in (2, 3, 4):
            shown = [axis for axis in TRAININGS[number].draw(runs, judged).axes if "FLOPs" in axis.get_xlabel()]
            assert shown
            for axis in shown:
                for line in (container.lines[0] for container in axis.containers):
                    place = line.get_transform().transform(line.get_xydata())
                    assert place == pytest.approx(axis.transData.transform(line.get_xydata()))

    def test_every_length_that_a_claim_compares_is_drawn(self, runs, judged):
        (axis,) = [a for a in TRAININGS[2].draw(runs, judged).axes if "where not named\n" in a.get_title(loc="left")]
        labels = axis.get_legend_handles_labels()[1]
        for pruning, rigl in PROTOCOLS["small"]["imagenet_resnet50"].extended_pruning.values():
            assert {f"Pruning {pruning:g}x", f"RigL {rigl:g}x ERK"} <= set(labels)

    def test_a_panel_with_one_claim_says_its_verdict(self, runs, judged):
        (right,) = [axis for axis in TRAININGS[4].draw(runs, judged).axes if "WRN" in axis.get_title(loc="left")][:1]
        assert "RigL is above Static at every sparsity: HOLDS" in " ".join(right.get_title(loc="left").split())

    @pytest.mark.parametrize("number", TRAININGS)
    def test_a_figure_with_all_its_runs_lacks_nothing_and_every_curve_has_a_line(self, runs, judged, number):
        n_runs, n_measured, points = missing(number, runs, "small")
        assert (n_measured, points) == (n_runs, [])
        figure = TRAININGS[number].draw(runs, judged)
        shown = [axis for axis in figure.axes if axis.axison and axis.get_title(loc="left")]
        assert shown
        for axis in shown:
            n_curves = len([line for line in axis.lines if len(line.get_xdata()) > 1])
            assert n_curves >= (
                1 if "SNFS, " in axis.get_title(loc="left") or "SET\nR" in axis.get_title(loc="left") else 2
            )

    def test_figures_are_written_as_pdf_and_png(self, results, tmp_path, monkeypatch):
        monkeypatch.setattr(made, "NUMBERS", [9])
        assert make_figures(tmp_path, results) == {}
        assert (tmp_path / "fig9.pdf").stat().st_size > 1000
        assert (tmp_path / "fig9.png").stat().st_size > 1000

    def test_a_figure_of_a_single_run_is_drawn(self, results, tmp_path):
        table = pd.read_csv(results / "small.csv")
        one = table[(table["benchmark"] == "imagenet_resnet50") & (table["method"] == "RigL")].head(1)
        one.to_csv(tmp_path / "small.csv", index=False)
        judged = claims_table(tmp_path, "small")
        for number in (2, 7):
            figure = TRAININGS[number].draw(read(tmp_path, "small"), judged)
            lines = [line for axis in figure.axes for line in axis.lines]
            assert "white" in {line.get_markerfacecolor() for line in lines if len(line.get_xdata())}
            assert "hollow: n below 3" in " ".join(figure.get_supxlabel().split())

    def test_a_point_with_an_interval_is_filled(self, runs, judged):
        lines = [line for axis in TRAININGS[2].draw(runs, judged).axes for line in axis.lines]
        assert "white" not in {line.get_markerfacecolor() for line in lines if len(line.get_xdata())}


def test_an_interval_beyond_100_percent_does_not_flatten_the_rest():
    axis = plt.figure().subplots()
    axis.errorbar([1, 2], [60.0, 98.0], yerr=[60.0, 0.1])
    error_axis(axis)
    axis.get_figure().canvas.draw()
    height = axis.transAxes.inverted().transform(axis.transData.transform([(1, 60.0), (2, 98.0)]))[:, 1]
    assert height[1] - height[0] > 0.4


@pytest.mark.parametrize("path", FIGURE_FILES, ids=lambda path: path.stem)
def test_no_figure_and_no_table_needs_torch(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    others = [name for name in modules if name != "rigl_lightning.base.files"]  # files and nothing else, see below
    assert not [name for name in others if name.split(".")[0] in ("torch", "pytorch_lightning", "rigl_lightning")]


def test_drawing_loads_no_torch():
    program = "import sys, paper.make_figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=PAPER.parent).returncode == 0


def test_every_method_is_named_in_the_overview():
    table = pd.read_csv(PAPER / "out" / "table_methods.csv")
    (axis,) = overview.draw(table, "LeNet-300-100").axes
    assert {text.get_text() for text in axis.texts} == set(table["method"])
