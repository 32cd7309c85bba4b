"""The whole chain from declared run to figure, on embedded data."""

import pandas as pd
import pytest

from paper.collect import collect
from paper.executors import Resources
from paper.figures import fig4_char_gru_and_wrn22
from paper.figures.catalogue import missing
from paper.figures.data import read
from paper.launch import identities, launch
from paper.make_tables import claims_table
from paper.panels import figure_4


@pytest.mark.slow
def test_declared_runs_become_a_figure(tmp_path):
    declared = figure_4("smoke", 10)
    runs = [run for run in declared if run.benchmark == "char_gru" and run.multiplier == 1 and run.method != "SNFS"]
    assert launch(runs, tmp_path / "runs", tmp_path, Resources(jobs=2)) == 0
    assert collect(tmp_path / "runs", tmp_path / "smoke.csv") == len(runs)

    rows = read(tmp_path, "smoke")
    assert identities(tmp_path / "smoke.csv") == {run.identity for run in runs}
    assert missing(4, rows, "smoke")[1] == len(runs)
    own = pd.read_csv(tmp_path / "smoke.csv").set_index("method")
    assert own["val_bits"].notna().all()
    assert own["final_train_loss"].notna().all()
    assert own.loc["Static", "density"] == pytest.approx(0.1, abs=0.01)
    assert own.loc["Static", "train_flops"] < own.loc["RigL", "train_flops"] < own.loc["Dense", "train_flops"]

    axis = fig4_char_gru_and_wrn22.draw(rows, claims_table(tmp_path, "smoke")).axes[0]
    labels = axis.get_legend_handles_labels()[1]
    assert set(labels) == {run.method for run in runs}
