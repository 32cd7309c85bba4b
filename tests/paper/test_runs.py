"""Runs are declared, run and collected; nothing is run twice, and a failure is told and stops nobody else."""

import csv
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from paper import executors, launch, panels, protocols
from paper.collect import collect
from paper.counted import counted
from paper.declared import by_identity
from paper.executors import Resources
from paper.experiments import METHODS, Run, declared
from paper.figures.data import COMMITTED as RESULTS
from paper.figures.data import own_rows
from paper.one_run import arguments
from paper.protocols import PROTOCOLS, Protocol
from paper.tables.methods import accuracies, as_markdown
from rigl_lightning.sparsity.files.masks import pack_masks

RIGL = Run("mnist_lenet", "RigL", 0.95, "ERK", 1, "smoke")


def _steps(run):
    """Steps of a training of the small scale."""
    return round(run.multiplier * run.protocol.settings["trainer"]["max_steps"])


class TestDeclaredRuns:
    def test_equal_settings_are_one_run(self):
        assert Run("mnist_lenet", "RigL", 0.95, "ERK", 1, "smoke") == RIGL
        runs = panels.all_runs("small")
        assert len({run.identity for run in runs}) == len({run.name for run in runs}) == len(runs)

    def test_a_sweep_and_a_comparison_share_the_run_they_have_in_common(self):
        usual = Run("imagenet_resnet50", "RigL", 0.95, "ERK")
        assert declared(replace(usual, delta_t=33, alpha=0.3)) == usual
        assert usual in panels.figure_5("small", 0)
        assert usual in panels.figure_2("small", 0)
        assert usual.columns()["delta_t"] == 33

    @pytest.mark.parametrize("scale", ["smoke", "small"])
    def test_names_are_folders(self, scale):
        for run in panels.all_runs(scale, [0]):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+/[\w.-]+", run.name), run.name

    def test_the_settings_are_what_a_user_would_type(self):
        settings = RIGL.settings()
        assert settings[:3] == [
            "--config=configs/mnist_lenet.yaml",
            "--config=configs/smoke/mnist_lenet.yaml",
            "--seed_everything=1",
        ]
        assert settings[-3:] == [
            "--sparse.algorithm=RigL",
            "--sparse.algorithm.sparsity=0.95",
            "--sparse.algorithm.distribution=ErdosRenyi",
        ]

    def test_er_is_erk_without_kernels(self):
        settings = Run("imagenet_resnet50", "RigL", 0.9, "ER").settings()
        assert settings[-1] == "--sparse.algorithm.distribution.kernel=false"

    def test_a_longer_training_is_still_validated_once_at_its_end(self):
        run = Run("imagenet_resnet50", "RigL", 0.9, "uniform", multiplier=2.0)
        assert {"--trainer.max_steps=4000", "--trainer.val_check_interval=4000"} <= set(run.settings())

    def test_a_training_of_the_small_scale_ends_with_a_checkpoint(self):
        for run in by_identity("small").values():
            trainer = run.protocol.settings["trainer"]
            assert _steps(run) % trainer["callbacks"][0]["init_args"]["every_n_train_steps"] == 0, run.name

    def test_the_committed_rows_have_the_declared_number_of_steps(self):
        declared_runs = by_identity("small")
        table = pd.read_csv(RESULTS / "small.csv", dtype={"config_hash": str}).set_index("config_hash")
        steps = table.loc[[identity for identity in table.index if identity in declared_runs], "steps"]
        assert {i: n for i, n in steps.items() if n != _steps(declared_runs[i])} == {}

    def test_every_figure_has_three_seeds_and_its_first_before_its_third(self):
        runs = panels.all_runs("small")
        place = {run: position for position, run in enumerate(runs)}
        for panel in panels.FIGURES.values():
            of_panel = panels.runs_of([panel], "small")
            assert {run.seed for run in of_panel} == {10, 11, 12}
            first, third = ([place[run] for run in of_panel if run.seed == seed] for seed in (10, 12))
            assert max(first) < max(third)
        last_first = max(place[run] for run in runs if run.seed == 10)
        assert last_first < min(place[run] for run in runs if run.seed == 12)

    def test_the_methods_table_has_every_method(self):
        compared, narrow = (
            {run.method for run in panel("small", 0)} for panel in (panels.methods_table, panels.narrow_networks)
        )
        assert compared == set(METHODS) - {"Big-Sparse"} - (narrow - compared)
        assert len(compared) > 20

    def test_a_lottery_ticket_starts_from_the_run_that_found_it(self, tmp_path):
        ticket = Run("mnist_lenet", "Lottery, static", 0.95, "ERK", 1, "smoke")
        assert ticket.needs == RIGL
        expected = f"--sparse.algorithm.checkpoint={tmp_path / RIGL.name / 'last.ckpt'}"
        assert expected in arguments(ticket, tmp_path / ticket.name, tmp_path)

    def test_a_width_that_nobody_has_computed_is_an_error(self):
        with pytest.raises(ValueError, match="Add it in paper/protocols.py"):
            Run("imagenet_resnet50", "Small-Dense", 0.123, "uniform").settings()


class TestIdentity:
    @pytest.fixture
    def protocol(self, tmp_path, monkeypatch):
        """Makes a protocol of one configuration with this text, and forgets what was read before."""
        monkeypatch.setattr(protocols, "CONFIGS", tmp_path)

        def make(text):
            (tmp_path / "a.yaml").write_text(text)
            protocols._merged.cache_clear()
            monkeypatch.setitem(PROTOCOLS["smoke"], "mnist_lenet", Protocol(("a.yaml",)))
            return RIGL.identity

        yield make
        protocols._merged.cache_clear()

    text = "trainer: {max_steps: 3}\nsparse: {algorithm: {init_args: {schedule: {interval: 1}, drop_fraction: 0.1}}}\n"

    def test_comments_loggers_and_checkpoints_do_not_change_it(self, protocol):
        assert protocol(self.text) == protocol(f"# a comment\n{self.text}")
        assert protocol(self.text) == protocol(
            self.text.replace("max_steps: 3", "max_steps: 3, logger: x, callbacks: y")
        )

    def test_a_setting_changes_it(self, protocol):
        assert protocol(self.text) != protocol(self.text.replace("max_steps: 3", "max_steps: 4"))


def record(folder, run, accuracy):
    """What a complete run leaves."""
    place = folder / run.name
    (place / "log").mkdir(parents=True)
    sparse = {"step": 60, "flops_spent": 5.0, "flops_dense": 180.0}
    torch.save({"callbacks": {"SparseTrainingCallback": sparse}}, place / "last.ckpt")
    ended = {"status": "done", "wall_s": 1.0, "commit": "c", **counted(place / "last.ckpt")}
    (place / "run.json").write_text(json.dumps({**run.columns(), **ended}))
    with open(place / "log" / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        keys = ["step", "val/accuracy", "sparse/density", "sparse/inference_flops", "sparse/exploration", "train/loss"]
        writer.writerow(keys)
        writer.writerows([[0, "", 0.05, 0.05, 0.05, 9.0], [55, "", "", "", "", 3.0], [59, accuracy, "", "", 0.2, 1.0]])


def small_chain():
    """A checkpoint of two layers, of whose three inputs and two neurons one each takes part."""
    masks = {
        "0.weight": torch.tensor([[True, False, False], [False, False, False]]),
        "2.weight": torch.tensor([[True, False]]),
    }
    weights = {name: mask.float() for name, mask in masks.items()}
    state = {"step": 60, "flops_spent": 5.0, "flops_dense": 180.0, "masks": pack_masks(masks)}
    return {"state_dict": weights, "callbacks": {"SparseTrainingCallback": state}}


def failed(folder, run):
    """What a failed run leaves."""
    (folder / run.name).mkdir(parents=True, exist_ok=True)
    row = {**run.columns(), "status": "failed with exit status 1", "wall_s": 1.0}
    (folder / run.name / "run.json").write_text(json.dumps(row))


class TestCollect:
    def test_rows_hold_the_last_metrics_and_are_kept_when_the_folder_is_gone(self, tmp_path):
        record(tmp_path / "a", RIGL, 0.9)
        assert collect(tmp_path / "a", tmp_path / "smoke.csv") == 1
        other = Run("mnist_lenet", "Static", 0.95, "ERK", 1, "smoke")
        record(tmp_path / "b", other, 0.8)
        assert collect(tmp_path / "b", tmp_path / "smoke.csv") == 2
        table = pd.read_csv(tmp_path / "smoke.csv").set_index("method")
        assert table.loc["RigL", ["val_accuracy", "density", "exploration", "steps"]].tolist() == [0.9, 0.05, 0.2, 60]
        assert table.loc["RigL", "dense_inference_flops"] == 1
        assert table.loc["Static", "val_accuracy"] == 0.8

    def test_the_final_training_loss_is_the_mean_of_the_last_tenth(self, tmp_path):
        record(tmp_path, RIGL, 0.9)
        collect(tmp_path, tmp_path / "smoke.csv")
        assert pd.read_csv(tmp_path / "smoke.csv").loc[0, ["train_loss", "final_train_loss"]].tolist() == [1.0, 2.0]

    def test_a_run_that_has_not_ended_has_no_row(self, tmp_path):
        record(tmp_path, RIGL, 0.9)
        (tmp_path / RIGL.name / "run.json").unlink()
        assert collect(tmp_path, tmp_path / "smoke.csv") == 0

    @pytest.mark.parametrize("lost", ["counts", "metrics"])
    def test_a_run_that_has_lost_something_is_a_row_that_says_so(self, tmp_path, lost):
        record(tmp_path, RIGL, 0.9)
        if lost == "metrics":
            (tmp_path / RIGL.name / "log" / "metrics.csv").unlink()
        else:
            (tmp_path / RIGL.name / "run.json").write_text(json.dumps({**RIGL.columns(), "status": "done"}))
        collect(tmp_path, tmp_path / "smoke.csv")
        assert "gone" in pd.read_csv(tmp_path / "smoke.csv").loc[0, "status"]

    def test_a_run_whose_costs_are_those_of_an_earlier_step_is_a_row_that_says_so(self, tmp_path):
        record(tmp_path, RIGL, 0.9)
        run = tmp_path / RIGL.name / "run.json"
        run.write_text(json.dumps({**json.loads(run.read_text()), "steps": 40}))
        collect(tmp_path, tmp_path / "smoke.csv")
        assert pd.read_csv(tmp_path / "smoke.csv").loc[0, "status"].endswith("of step 40 of 59")

    def test_rows_need_no_checkpoint(self, tmp_path):
        record(tmp_path, RIGL, 0.9)
        (tmp_path / RIGL.name / "last.ckpt").unlink()
        collect(tmp_path, tmp_path / "smoke.csv")
        assert pd.read_csv(tmp_path / "smoke.csv").loc[0, "status"] == "done"

    def test_what_is_left_of_lenet_is_read_from_the_checkpoint_of_a_run_that_did_not_count_it(self, tmp_path):
        run = Run("mnist_lenet", "RigL", 0.99, "ERK", 1, "paper")
        record(tmp_path, run, 0.9)
        torch.save(small_chain(), tmp_path / run.name / "last.ckpt")
        collect(tmp_path, tmp_path / "paper.csv")
        row = pd.read_csv(tmp_path / "paper.csv").loc[0]
        # Two connections of 2 FLOPs each; of the one unit a layer, two weights and two biases of 4 bytes.
        assert (row["units"], row["kiloflops"], row["size_bytes"]) == ("1-1-1", 0.004, 16)

    def test_a_failure_is_a_row_but_takes_no_complete_row_away(self, tmp_path):
        failed(tmp_path / "a", RIGL)
        collect(tmp_path / "a", tmp_path / "smoke.csv")
        assert pd.read_csv(tmp_path / "smoke.csv").loc[0, "status"] == "failed with exit status 1"
        record(tmp_path / "b", RIGL, 0.9)
        for folder in ("b", "a"):
            collect(tmp_path / folder, tmp_path / "smoke.csv")
        assert pd.read_csv(tmp_path / "smoke.csv").loc[0, "status"] == "done"


class TestLaunch:
    @pytest.fixture
    def ran(self, monkeypatch):
        """Runs that were executed; those of seed 1 fail."""
        ran = []

        def execute(run, folder, data, threads, accelerator):
            ran.append(run)
            return {"status": "failed with exit status 1" if run.seed == 1 else "done", "wall_s": 1.0}

        monkeypatch.setattr(executors, "execute", execute)
        return ran

    def test_what_is_done_is_not_run_again_and_a_failure_stops_nobody(self, tmp_path, ran, capsys):
        done, failing, fine = (Run("mnist_lenet", "RigL", 0.95, "ERK", seed, "smoke") for seed in range(3))
        record(tmp_path, done, 0.9)
        failed(tmp_path, failing)
        assert launch.launch([done, failing, fine, fine], tmp_path, tmp_path, Resources()) == 1
        assert ran == [failing, fine]
        shown = capsys.readouterr().out
        assert "failed with exit status 1" in shown
        assert "2/2" in shown
        assert "min left" in shown

    def test_what_has_a_row_is_not_run_again_wherever_it_ran(self, tmp_path, ran):
        assert launch.launch([RIGL], tmp_path, tmp_path, Resources(), collected={RIGL.identity}) == 0
        assert not ran

    def test_the_checkpoint_another_run_begins_with_is_made_even_if_its_row_is_there(self, tmp_path, ran):
        ticket = Run("mnist_lenet", "Lottery, static", 0.95, "ERK", 2, "smoke")
        assert ticket.needs is not None
        launch.launch([ticket], tmp_path, tmp_path, Resources(2), collected={ticket.needs.identity})
        assert ran == [ticket.needs, ticket]

    def test_identities_are_those_of_complete_rows(self, tmp_path):
        record(tmp_path, RIGL, 0.9)
        failed(tmp_path, replace(RIGL, seed=0))
        collect(tmp_path, tmp_path / "smoke.csv")
        assert launch.identities(tmp_path / "smoke.csv") == {RIGL.identity}
        assert launch.identities(tmp_path / "none.csv") == set()

    def test_an_interrupted_run_goes_on_from_its_newest_checkpoint(self, tmp_path):
        assert not [a for a in arguments(RIGL, tmp_path, tmp_path) if a.startswith("--ckpt_path")]
        (tmp_path / "last.ckpt").touch()  # damaged
        assert not [a for a in arguments(RIGL, tmp_path, tmp_path) if a.startswith("--ckpt_path")]
        torch.save({}, tmp_path / "last.ckpt")
        assert arguments(RIGL, tmp_path, tmp_path)[-1] == f"--ckpt_path={tmp_path / 'last.ckpt'}"

    def test_a_figure_or_a_table_that_is_not_there_is_an_error(self):
        assert launch.selected(["10"], "small", [0]) == panels.runs_of([panels.figure_10], "small", [0])
        with pytest.raises(ValueError, match="got 12"):
            launch.selected(["12"], "small", [0])


class TestTable:
    def runs(self, accuracies):
        columns = {"sparsity": 0.95, "training": 0.05, "inference": 0.05, "density": 0.05, "exploration": 0.1}
        found = [
            {**columns, "method": method, "seed": seed, "accuracy": accuracy}
            for method, values in accuracies.items()
            for seed, accuracy in enumerate(values)
        ]
        return pd.DataFrame(found)

    def test_differences_are_paired_by_seed(self):
        found = {"Dense": [95.0, 95.0], "Static": [90.0, 80.0], "RigL": [92.0, 82.0]}
        table = accuracies(self.runs(found)).set_index("method")
        assert table.loc["RigL", "over_static"] == pytest.approx(2)
        assert table.loc["RigL", "over_static_std"] == pytest.approx(0)
        assert table.loc["RigL", "accuracy"] == pytest.approx(87)
        assert list(table.index) == ["Dense", "RigL", "Static"]

    def test_a_ticket_costs_the_run_that_found_it_too(self):
        found = self.runs({"Static": [90.0], "RigL": [92.0], "Lottery, static": [91.0]})
        assert accuracies(found).set_index("method").loc["Lottery, static", "training"] == pytest.approx(0.1)

    def test_costs_are_relative_to_the_network_of_full_width(self):
        narrow, dense = Run("mnist_lenet", "Small-Dense", 0.99, "ERK", 10), Run("mnist_lenet", "Dense", seed=10)
        costs = {"train_flops": [100.0, 7.0], "dense_train_flops": [100.0, 7.0], "dense_inference_flops": [100.0, 7.0]}
        rows = pd.DataFrame([run.columns() for run in (dense, narrow)]).assign(
            **costs, inference_flops=1.0, status=["done", "done"], val_accuracy=0.9
        )
        table = own_rows(rows, "small").set_index("method")
        assert table.loc["Small-Dense", ["training", "inference"]].tolist() == [0.07, 0.07]
        assert list(own_rows(rows.assign(status=["done", "failed"]), "small")["method"]) == ["Dense"]

    def test_in_words(self):
        text = as_markdown(accuracies(self.runs({"Dense": [90.0, 90.0], "Static": [90.0, 80.0], "RigL": [92.0, 82.0]})))
        assert "| RigL | 87.00 ± 7.07 | +2.00 ± 0.00 | 0.050 | 0.050 | 0.10 | 2 |" in text
