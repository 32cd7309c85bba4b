"""Runs are declared, run and collected; nothing is run twice, and a failure is told and stops nobody else."""

import csv
import json

import pandas as pd
import pytest

from paper import launch
from paper.collect import collect
from paper.experiments import METHODS, SMALL_DENSE_WIDTHS, TABLES, Run, methods_table
from paper.tables.methods import as_markdown, rows

RIGL = Run("mnist_lenet", "RigL", 0.95, "ERK", 1, "smoke")


class TestDeclaredRuns:
    def test_equal_settings_are_one_run(self):
        assert Run("mnist_lenet", "RigL", 0.95, "ERK", 1, "smoke") == RIGL
        assert len({RIGL.identity, *(run.identity for run in methods_table("small"))}) == 1 + len(
            methods_table("small")
        )

    def test_names_are_folders(self):
        for run in methods_table():
            assert run.name.count("/") == 2
            assert not set(run.name) & set(" ,:=[]'\"")

    def test_the_settings_are_what_a_user_would_type(self):
        settings = RIGL.settings()
        assert settings[:2] == ["--config=configs/mnist_lenet.yaml", "--seed_everything=1"]
        assert settings[-3:] == [
            "--sparse.algorithm=RigL",
            "--sparse.algorithm.sparsity=0.95",
            "--sparse.algorithm.distribution=ErdosRenyi",
        ]

    def test_er_is_erk_without_kernels(self):
        assert Run("mnist_lenet", "RigL", 0.9, "ER").settings()[-1] == "--sparse.algorithm.distribution.kernel=false"

    def test_every_table_has_every_method_and_three_seeds(self):
        for runs in TABLES.values():
            assert {run.method for run in runs()} == set(METHODS)
            assert {run.seed for run in runs()} == {0, 1, 2}

    def test_a_lottery_ticket_starts_from_the_run_that_found_it(self, tmp_path):
        ticket = Run("mnist_lenet", "Lottery, static", 0.95, "ERK", 1, "smoke")
        assert ticket.needs == RIGL
        expected = f"--sparse.algorithm.checkpoint={tmp_path / RIGL.name / 'last.ckpt'}"
        assert expected in launch.arguments(ticket, tmp_path / ticket.name, tmp_path)

    def test_the_small_dense_width_is_the_largest_with_as_many_weights(self):
        from rigl_lightning.models import LeNet300100
        from rigl_lightning.sparsity.widths import count_parameters, largest_width, of_network

        def build(width):
            return LeNet300100(width=width)

        n_weights = sum(p.numel() for name, p in build(1.0).named_parameters() if name.endswith("weight"))
        found = largest_width(of_network(build, count_parameters), 0.05 * n_weights)
        assert SMALL_DENSE_WIDTHS["mnist_lenet", 0.95] == found.width


def record(folder, run, accuracy):
    """What a complete run leaves."""
    import torch

    place = folder / run.name
    (place / "log").mkdir(parents=True)
    (place / "run.json").write_text(json.dumps({**run.columns(), "status": "done", "wall_s": 1.0, "commit": "c"}))
    sparse = {"step": 60, "flops_spent": 5.0, "flops_dense": 100.0}
    torch.save({"callbacks": {"SparseTrainingCallback": sparse}}, place / "last.ckpt")
    with open(place / "log" / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        keys = ["step", "val/accuracy", "sparse/density", "sparse/inference_flops", "sparse/exploration"]
        writer.writerows([keys, [0, "", 0.05, 0.05, 0.05], [59, accuracy, "", "", 0.2]])


class TestCollect:
    def test_rows_hold_the_last_metrics_and_are_kept_when_the_folder_is_gone(self, tmp_path):
        record(tmp_path / "a", RIGL, 0.9)
        assert collect(tmp_path / "a", tmp_path / "smoke.csv") == 1
        other = Run("mnist_lenet", "Static", 0.95, "ERK", 1, "smoke")
        record(tmp_path / "b", other, 0.8)
        assert collect(tmp_path / "b", tmp_path / "smoke.csv") == 2
        table = pd.read_csv(tmp_path / "smoke.csv").set_index("method")
        assert table.loc["RigL", ["val_accuracy", "density", "exploration", "steps"]].tolist() == [0.9, 0.05, 0.2, 60]
        assert table.loc["Static", "val_accuracy"] == 0.8

    def test_an_unfinished_run_has_no_row(self, tmp_path):
        record(tmp_path, RIGL, 0.9)
        (tmp_path / RIGL.name / "run.json").unlink()
        assert collect(tmp_path, tmp_path / "smoke.csv") == 0


class TestLaunch:
    def test_what_is_done_is_not_run_again_and_a_failure_stops_nobody(self, tmp_path, monkeypatch, capsys):
        done, failing, fine = (Run("mnist_lenet", "RigL", 0.95, "ERK", seed, "smoke") for seed in range(3))
        record(tmp_path, done, 0.9)
        ran = []

        def execute(run, folder, data):
            ran.append(run)
            return {"status": "failed with exit status 1" if run == failing else "done", "wall_s": 1.0}

        monkeypatch.setattr(launch, "execute", execute)
        assert launch.launch([done, failing, fine, fine], tmp_path, tmp_path, jobs=1) == 1
        assert ran == [failing, fine]
        assert "failed with exit status 1" in capsys.readouterr().out

    def test_an_interrupted_run_goes_on_from_its_last_checkpoint(self, tmp_path):
        assert not [a for a in launch.arguments(RIGL, tmp_path, tmp_path) if a.startswith("--ckpt_path")]
        (tmp_path / "last.ckpt").touch()
        assert launch.arguments(RIGL, tmp_path, tmp_path)[-1] == f"--ckpt_path={tmp_path / 'last.ckpt'}"


class TestTable:
    def results(self, accuracies):
        columns = {"benchmark": "mnist_lenet", "status": "done", "sparsity": 0.95, "train_flops": 5.0}
        columns |= {"dense_train_flops": 100.0, "inference_flops": 0.05, "density": 0.05, "exploration": 0.1}
        found = [
            {**columns, "method": method, "seed": seed, "val_accuracy": accuracy}
            for method, values in accuracies.items()
            for seed, accuracy in enumerate(values)
        ]
        return pd.DataFrame(found)

    def test_differences_are_paired_by_seed(self):
        accuracies = {"Dense": [0.95, 0.95], "Static": [0.90, 0.80], "RigL": [0.92, 0.82]}
        table = rows(self.results(accuracies)).set_index("method")
        assert table.loc["RigL", "over_static"] == pytest.approx(2)
        assert table.loc["RigL", "over_static_std"] == pytest.approx(0)
        assert table.loc["RigL", "accuracy"] == pytest.approx(87)
        assert table.loc["RigL", "train_flops"] == pytest.approx(0.05)
        assert list(table.index) == ["Dense", "RigL", "Static"]

    def test_costs_are_relative_to_the_network_of_full_width(self):
        results = self.results({"Dense": [0.9], "Small-Dense": [0.8]})
        results["train_flops"], results["inference_flops"] = [100.0, 7.0], 1.0
        results["dense_train_flops"] = [100.0, 7.0]
        table = rows(results).set_index("method")
        assert table.loc["Small-Dense", ["train_flops", "inference_flops"]].tolist() == [0.07, 0.07]

    def test_failed_runs_do_not_count(self):
        results = self.results({"Static": [0.9, 0.8]})
        results.loc[1, "status"] = "failed with exit status 1"
        assert rows(results).loc[0, "n"] == 1

    def test_in_words(self):
        text = as_markdown(rows(self.results({"Dense": [0.9, 0.9], "Static": [0.90, 0.80], "RigL": [0.92, 0.82]})))
        assert "| RigL | 87.00 ± 7.07 | +2.00 ± 0.00 | 0.050 | 0.050 | 0.10 | 2 |" in text
