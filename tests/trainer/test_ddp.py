"""Several processes have the same masks, and the masks of one process on the joint batch."""

import os

import pytest
import pytorch_lightning as pl
import torch

from rigl_lightning import (
    SET,
    GradualMagnitudePruning,
    RigL,
    SparseTrainingCallback,
    SparsityRamp,
    Static,
    UpdateSchedule,
)
from tests.helpers import small_runs
from tests.helpers.process_groups import run_in_world
from tests.helpers.small_runs import QUIET, SCHEDULE, SmallData, SmallModel

SAME = ("rigl", "set", "snfs", "snip", "grasp", "dsr", "deep_r", "dnw", "top_kast", "chts", "annealed")
ALGORITHMS = {
    **{name: small_runs.ALGORITHMS[name] for name in SAME},
    "pruning": GradualMagnitudePruning(0.7, schedule=UpdateSchedule(interval=2, begin=0.1, end=0.7)),
    "ramp": RigL(SparsityRamp(0.3, 0.7), schedule=SCHEDULE),
}


class SaveAtEnd(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        sparsifier = trainer.callbacks[0].sparsifier
        content = {"masks": dict(sparsifier.masks), "weights": pl_module.state_dict(), "step": sparsifier.step}
        torch.save(content, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def train(folder, algorithm, devices, **settings):
    trainer = pl.Trainer(
        callbacks=[SparseTrainingCallback(algorithm, seed=5), SaveAtEnd(folder)],
        max_epochs=3,
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        enable_checkpointing=False,
        **QUIET,
        **settings,
    )
    trainer.fit(SmallModel(dropout=0.0), SmallData(batch_size=4 // devices))


@pytest.mark.parametrize(
    "settings", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}], ids=["plain", "accumulated"]
)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_processes_end_with_the_masks_of_one(tmp_path, name, settings):
    for devices in (1, 2):
        train(tmp_path, ALGORITHMS[name], devices, **settings)
    one, *two = (torch.load(tmp_path / f"{run}.pt") for run in ("1-0", "2-0", "2-1"))
    assert one["step"] == two[0]["step"] == (18 if not settings else 9)
    for rank in two:
        for layer, mask in one["masks"].items():
            assert torch.equal(rank["masks"][layer], mask), layer
        for key, weight in one["weights"].items():
            torch.testing.assert_close(rank["weights"][key], weight, rtol=1e-4, atol=1e-6)
    for key, weight in two[0]["weights"].items():
        assert torch.equal(two[1]["weights"][key], weight), key


def local_noise(connections):
    """A grow score that breaks the rule: randomness of the process instead of the connections' generator."""
    return torch.rand(connections.weight.shape)


def test_masks_that_differ_between_processes_are_an_error_that_names_the_layer(tmp_path):
    class DifferentSeeds(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            torch.manual_seed(trainer.global_rank)

    trainer = pl.Trainer(
        callbacks=[SparseTrainingCallback(SET(0.7, schedule=SCHEDULE, grow_score=local_noise)), DifferentSeeds()],
        max_epochs=1,
        devices=2,
        strategy="ddp_fork",
        enable_checkpointing=False,
        **QUIET,
    )
    with pytest.raises(Exception, match=r"masks of layer 'net\.\d\.weight' differ between processes"):
        trainer.fit(SmallModel(), SmallData(batch_size=2))


def begin_differently(what):
    rank = int(os.environ["LOCAL_RANK"])
    algorithm = Static(0.7) if what != "algorithm" else [Static(0.7), SET(0.7, schedule=SCHEDULE)][rank]
    pl.seed_everything(7 + rank if what == "seed" else 7)
    sparse = SparseTrainingCallback(algorithm, exclude=["net.3"] if what == "layers" and rank else [])
    trainer = pl.Trainer(
        callbacks=[sparse], max_epochs=1, devices=2, strategy="ddp", enable_checkpointing=False, **QUIET
    )
    trainer.fit(SmallModel(), SmallData(batch_size=2))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("seed", r"same seed on every process, got 7 on process 0 and 8 on process 1.*seed_everything"),
        ("algorithm", r"same algorithm on every process, got Static\(sparsity=0.7\) on process 0 and SET\("),
        (
            "layers",
            r"same sparse layers on every process, got net.0.weight, net.3.weight on process 0 and net.0.w",
        ),
    ],
)
def test_processes_that_begin_differently_are_told_before_the_first_step(what, message):
    with pytest.raises(Exception, match=message):
        run_in_world(2, begin_differently, what)
