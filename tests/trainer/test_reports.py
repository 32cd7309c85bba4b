"""What a user is shown: the table before training, the logs, and FLOPs that agree with each other."""

import csv

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from rigl_lightning import (
    DNW,
    DeepR,
    ErdosRenyi,
    GradualMagnitudePruning,
    GraNet,
    RigL,
    SparseTrainingCallback,
    Static,
    Uniform,
    UpdateSchedule,
)
from rigl_lightning.reports.layer_table import layer_table
from rigl_lightning.sparsity.costs.training import planned_inference_flops, planned_training_flops
from rigl_lightning.trainer.csv_logger import KeepEarlierMetrics, ResumableCSVLogger, read_rows
from tests.helpers.small_runs import ALGORITHMS, QUIET, SCHEDULE, SmallData, SmallModel, fit


class WithExample(SmallModel):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.zeros(2, 6)


def rows(folder):
    with open(folder / "lightning_logs" / "version_0" / "metrics.csv", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("sparse/churn")]


def test_values_are_logged_at_the_update_steps(tmp_path):
    fit(RigL(0.7, schedule=SCHEDULE), WithExample(), logger=CSVLogger(tmp_path))
    logged = rows(tmp_path)
    assert [int(row["step"]) for row in logged] == [0, 3, 6, 9, 18]  # the last row is written when training ends
    assert [float(row["sparse/density"]) for row in logged] == pytest.approx([44 / 144] * 5)
    # alpha · (1 + cos(pi · t / 12)) / 2 with alpha = 0.3
    assert [float(row["sparse/drop_fraction"]) for row in logged[:4]] == pytest.approx(
        [0.3, 0.25607, 0.15, 0.04393], abs=1e-5
    )
    assert all(0 <= float(row["sparse/churn"]) <= 0.3 for row in logged)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"log_every_n_steps": 5}, [0, 5, 10, 15, 18]), ({"log_every_n_steps": 1}, list(range(19)))],
    ids=["every fifth", "every"],
)
@pytest.mark.parametrize("algorithm", [DeepR(0.7, l1=0.01), DNW(0.7)], ids=["deep_r", "dnw"])
def test_methods_that_update_at_every_step_are_shown_as_often_as_the_trainer_logs(
    algorithm, settings, steps, tmp_path, monkeypatch
):
    compared = []
    monkeypatch.setattr("rigl_lightning.trainer.distributed.compare_ranks", lambda trainer, s: compared.append(s.step))
    fit(algorithm, WithExample(), logger=CSVLogger(tmp_path), **settings)
    assert [int(row["step"]) for row in rows(tmp_path)] == steps
    assert compared == [step + 1 for step in steps[:-1]] + ([18] if steps[-2] != 17 else [])


def test_updates_with_steps_between_them_are_always_shown(tmp_path):
    schedule = UpdateSchedule(interval=2, end=12)
    fit(RigL(0.7, schedule=schedule), WithExample(), logger=CSVLogger(tmp_path), log_every_n_steps=50)
    assert [int(row["step"]) for row in rows(tmp_path)] == [0, 2, 4, 6, 8, 10, 18]


def test_the_table_says_so_where_training_decides_about_layers(caplog):
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        fit(ALGORITHMS["dsr"], WithExample(), max_epochs=1)
    table = next(record.message for record in caplog.records if "net.0.weight" in record.message)
    assert "the training decides how many connections each layer has" in table
    assert table.strip().splitlines()[-2].split() == ["total", "144", "44", "0.6944"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_counted_flops_equal_planned_ones(name):
    _, sparse, _ = fit(ALGORITHMS[name], WithExample())
    algorithm = sparse.sparsifier.algorithm
    shapes = {layer: mask.shape for layer, mask in sparse.sparsifier.masks.items()}
    planned = planned_training_flops(algorithm, shapes, sparse.flops.dense, 18)
    tolerance = 0.01 if algorithm.has_planned_layers() else 0.25
    assert sparse.metrics()["sparse/train_flops"] == pytest.approx(planned, abs=tolerance)
    final = planned_inference_flops(algorithm, shapes, sparse.flops.dense)
    assert sparse.metrics()["sparse/inference_flops"] == pytest.approx(final, abs=tolerance)


def test_flops_are_counted_on_the_first_batch_where_there_is_no_example_input():
    _, with_example, _ = fit(Static(0.7), WithExample())
    _, without, _ = fit(Static(0.7), SmallModel())
    assert with_example.flops.dense == {"net.0.weight": 2 * 96, "net.3.weight": 2 * 48}  # of one sample
    assert without.flops.dense == {"net.0.weight": 2 * 96 * 4, "net.3.weight": 2 * 48 * 4}  # of the batch
    assert without.metrics() == pytest.approx(with_example.metrics())


def test_an_example_input_that_the_network_cannot_take_is_a_warning_only():
    class Wrong(SmallModel):
        def __init__(self):
            super().__init__()
            self.example_input_array = torch.zeros(2, 7)

    with pytest.warns(UserWarning, match="FLOPs cannot be counted on example_input_array"):
        _, sparse, _ = fit(Static(0.7), Wrong())
    assert sparse.metrics()["sparse/inference_flops"] == pytest.approx(44 / 144, abs=0.05)


def test_the_table_before_training_shows_each_layer(caplog):
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        fit(RigL(0.7, schedule=SCHEDULE), WithExample())
    table = next(record.message for record in caplog.records if "net.0.weight" in record.message)
    lines = table.strip().splitlines()
    assert lines[0].startswith("RigL(sparsity=0.7")
    assert lines[1] == "4 mask updates, at steps 0, 3, 6, 9"
    assert "16x6" in table
    assert lines[-2].split() == ["total", "144", "44", "0.6944"]
    assert lines[-1].startswith("inference: 0.000 of 0.000 MFLOPs per sample = 0.")


def test_the_table_folds_layers_that_are_alike_and_names_its_settings_and_units():
    shapes = {f"blocks.{i}.{name}.weight": (8, 8) for i in range(12) for name in ("qkv", "proj")}
    flops = dict.fromkeys(shapes, 2e6)
    lines = layer_table(Static(0.75, distribution=Uniform(first_layer_dense=False)), shapes, 10, flops).splitlines()
    assert ": sparsity 0.75, distribution Uniform(first_layer_dense=False), structure " in lines[0]
    assert [line.split() for line in lines[4:6]] == [
        ["12", "x", f"blocks.*.{name}.weight", "8x8", "64", "16", "0.7500", "2.000", "0.500"]
        for name in ("qkv", "proj")
    ]
    assert lines[-2].split() == ["total", "1,536", "384", "0.7500"]
    assert lines[-1].endswith("training of 10 steps: 0.2500x the FLOPs of dense training")
    odd = {f"blocks.{i}.weight": (3, 3) for i in range(3)}  # of 13 or 14 connections, one layer has one more
    rows = layer_table(Static(0.5, distribution=ErdosRenyi()), odd).splitlines()
    assert next(row for row in rows if "blocks" in row).split()[:6] == ["3", "x", "blocks.*.weight", "3x3", "9", "4-5"]
    first = layer_table(RigL().resolve(1000), {"a.weight": (8, 8)}).splitlines()[0]
    assert ": sparsity 0.9, distribution ErdosRenyi(), drop fraction 0.3, decay cosine, " in first


def test_the_table_says_how_to_have_more_than_a_few_updates():
    table = layer_table(RigL(0.5).resolve(200), {"net.weight": torch.Size((4, 4))})
    assert table.splitlines()[1] == "2 mask updates, at steps 0, 100 (few; for more, set an interval below 100 steps)"


def test_values_reach_other_callbacks():
    class Reads(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            self.metrics = dict(trainer.callback_metrics)

    reads = Reads()
    fit(RigL(0.7, schedule=SCHEDULE), WithExample(), callbacks=[reads])
    assert float(reads.metrics["sparse/density"]) == pytest.approx(44 / 144)
    assert 0 < float(reads.metrics["sparse/train_flops"]) < 1


def test_the_progress_bar_shows_the_density():
    class Reads(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.shown = dict(trainer.progress_bar_metrics)

    reads = Reads()
    fit(RigL(0.7, schedule=SCHEDULE), callbacks=[reads])
    assert reads.shown["sparse/density"] == pytest.approx(44 / 144)  # at the last step, eight steps after an update


def run(*callbacks, model=None):
    trainer = pl.Trainer(callbacks=[*callbacks], max_epochs=3, enable_checkpointing=False, **QUIET)
    trainer.fit(model or SmallModel(), SmallData())


RIGL = RigL(0.7, schedule=SCHEDULE)


class TestMaskStatistics:
    def test_are_those_of_the_masks(self):
        sparse = SparseTrainingCallback(RIGL, log_layers=True)
        run(sparse)
        metrics, masks = sparse.metrics(), sparse.sparsifier.masks
        first = sparse.sparsifier.network.first_masks()
        kept = sum(int((first[n] & m).sum()) for n, m in masks.items())
        differing = sum(int((first[n] != m).sum()) for n, m in masks.items())
        assert metrics["sparse/survival"] == pytest.approx(kept / sum(int(m.sum()) for m in first.values()))
        assert metrics["sparse/hamming_distance"] == pytest.approx(differing / sum(m.numel() for m in masks.values()))
        assert 0 < metrics["sparse/survival"] < 1
        assert metrics["sparse/dead_units"] == sum(int((~m.flatten(1).any(1)).sum()) for m in masks.values())
        for name, mask in masks.items():
            assert metrics[f"sparse/density/{name}"] == pytest.approx(float(mask.float().mean()))

    def test_targets_are_what_the_algorithm_plans_for_the_moment(self):
        # 12 steps, pruned at 2, 5 and 8: a cubic ramp to 0.75 is at 1 - (1 - 3/6)^3 of its way after the second.
        pruning = GradualMagnitudePruning(0.75, Uniform(first_layer_dense=False), UpdateSchedule(3, 2, 8))
        sparse, seen = SparseTrainingCallback(pruning, log_layers=True), {}

        class Reads(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, *_):
                seen[trainer.global_step] = sparse.metrics()

        run(sparse, Reads())
        (name, *_) = sparse.sparsifier.masks
        for step, target in ((1, 1.0), (3, 1.0), (6, 1 - 0.75 * 0.875), (9, 0.25)):
            assert seen[step][f"sparse/target/{name}"] == pytest.approx(target)
            assert seen[step][f"sparse/density/{name}"] == pytest.approx(target, abs=0.02)
        undecided = SparseTrainingCallback(GraNet(0.7, 0.3, schedule=SCHEDULE, ramp_end=6), log_layers=True)
        run(undecided)
        assert not any("target" in key for key in undecided.metrics())

    def test_growth_without_gradients_is_counted(self):
        """All gradients are exactly zero: position alone chooses."""
        model = SmallModel()
        model.training_step = lambda batch, batch_idx: 0.0 * model.net(batch[0]).sum()
        sparse = SparseTrainingCallback(RIGL)
        run(sparse, model=model)
        assert sparse.sparsifier.last_update.n_grown == sparse.sparsifier.last_update.n_grown_blindly


class TestStrict:
    def test_passes_over_a_sound_training(self):
        run(SparseTrainingCallback(RIGL, strict=True))

    def test_names_what_another_callback_broke(self):
        class Vandal(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                with torch.no_grad():
                    pl_module.net[0].weight.fill_(1.0)

        with pytest.raises(RuntimeError, match=r"After 1 steps \(strict=True\): net.0.weight: \d+ inactive weights"):
            run(Vandal(), SparseTrainingCallback(RIGL, strict=True))


class TestLoggers:
    """The interface that loggers of all services have (W&B, TensorBoard, MLflow, ...): metrics of a step by name."""

    class Recorder(Logger):
        def __init__(self):
            super().__init__()
            self.logged = []

        name = version = "recorder"

        def log_hyperparams(self, params, *args, **kwargs):
            pass

        def log_metrics(self, metrics, step=None):
            if "sparse/churn" in metrics:
                self.logged.append((step, metrics))

    def test_every_logger_gets_plain_numbers_at_the_update_steps(self):
        loggers = [self.Recorder(), self.Recorder()]
        fit(RIGL, WithExample(), logger=loggers)
        for logger in loggers:
            assert [step for step, _ in logger.logged] == [0, 3, 6, 9, 18]
            for _, metrics in logger.logged:
                assert all(type(value) is float for value in metrics.values())

    def test_tensorboard(self, tmp_path):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        fit(RIGL, WithExample(), logger=TensorBoardLogger(tmp_path, name="", version=""))
        events = accumulator.EventAccumulator(str(tmp_path))
        events.Reload()
        assert [event.step for event in events.Scalars("sparse/density")] == [0, 3, 6, 9, 18]


class SumLoss(SmallModel):
    """A loss that a batch of no samples has, too."""

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().sum()


@pytest.mark.parametrize("example", [None, torch.zeros(0, 6)], ids=["first batch", "example"])
def test_an_empty_batch_does_not_count_as_the_cost_of_one(example):
    model = SumLoss()
    model.example_input_array = example
    batches = [[], [0, 1, 2, 3], [4, 5]]
    data = torch.utils.data.DataLoader(
        range(6), batch_sampler=batches, collate_fn=lambda rows: [torch.ones(len(rows), 6)]
    )
    sparse = SparseTrainingCallback(Static(0.7))
    pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET).fit(model, data)
    assert sparse.metrics()["sparse/inference_flops"] == pytest.approx(44 / 144, abs=0.1)
    assert sparse.metrics()["sparse/train_flops"] == pytest.approx(sparse.metrics()["sparse/inference_flops"])


class StepsEverySecond(SmallModel):
    """Accumulates over two batches by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.log("loss", loss)
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def test_a_resumed_manual_training_keeps_the_rows_that_are_not_logged_again(tmp_path):
    def train(epochs, resume=None):
        logger = ResumableCSVLogger(tmp_path, "a", version=0)
        callbacks = [KeepEarlierMetrics(), SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE))]
        settings = {**QUIET, "logger": logger, "log_every_n_steps": 1, "enable_checkpointing": False}
        trainer = pl.Trainer(callbacks=callbacks, max_epochs=epochs, **settings)
        trainer.fit(StepsEverySecond(), SmallData(), ckpt_path=resume)
        return trainer

    train(1).save_checkpoint(tmp_path / "one.ckpt")
    train(2, tmp_path / "one.ckpt")
    steps = [int(row["step"]) for row in read_rows(tmp_path / "a" / "version_0" / "metrics.csv") if "loss" in row]
    assert steps[:6] == list(range(6))  # three optimizer steps
    assert steps == sorted(set(steps))
    assert len(steps) == 12
