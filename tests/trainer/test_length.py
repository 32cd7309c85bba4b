"""How many steps a training has, where Lightning does not say; and a training of none."""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch import nn

from rigl_lightning import RigL, SparseTrainingCallback, UpdateSchedule
from tests.helpers.small_runs import QUIET, SmallData, SmallModel

EVERY_SECOND = UpdateSchedule(interval=2)


def trained(model, callbacks=(), data=None, **settings):
    sparse = SparseTrainingCallback(RigL(0.7, schedule=EVERY_SECOND), include=["net"])
    trainer = pl.Trainer(callbacks=[sparse, *callbacks], enable_checkpointing=False, **{**QUIET, **settings})
    trainer.fit(model, SmallData() if data is None else data)
    return sparse


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 10}, 10), ({"max_epochs": 3, "max_steps": 99}, 6 + 3 + 3), ({"max_epochs": 3, "max_steps": 8}, 8)],
)
def test_accumulation_that_changes_leaves_the_number_of_steps_known(settings, steps):
    sparse = trained(SmallModel(), [GradientAccumulationScheduler({0: 1, 1: 2})], **settings)
    assert sparse.sparsifier.total_steps == sparse.sparsifier.step == steps


def test_accumulation_by_a_callback_that_never_changes_needs_no_max_steps():
    sparse = trained(SmallModel(), [GradientAccumulationScheduler({0: 2})], max_epochs=3)
    assert sparse.sparsifier.total_steps == sparse.sparsifier.step == 3 * 3


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_the_epoch_that_swa_adds_for_batch_norms_has_no_steps(first):
    model = SmallModel()
    model.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    sparse = SparseTrainingCallback(RigL(0.7, schedule=EVERY_SECOND), include=["net"])
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    callbacks = [average, sparse] if first else [sparse, average]
    trainer = pl.Trainer(max_epochs=2, callbacks=callbacks, enable_checkpointing=False, **QUIET)
    trainer.fit(model, SmallData())
    assert sparse.sparsifier.total_steps == sparse.sparsifier.step == 12
    assert trainer.max_epochs == 2


class TwoOptimizers(SmallModel):
    """Both step at every batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(6, 3)

    def training_step(self, batch, _):
        for optimizer, part in zip(self.optimizers(), (self.net, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(part(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.net, self.other)]


def test_two_optimizers_share_max_steps():
    sparse = trained(TwoOptimizers(), max_steps=24)
    assert sparse.sparsifier.total_steps == sparse.sparsifier.step == 12
    assert sparse.sparsifier.last_update.step == 8  # before three quarters


def test_two_optimizers_make_a_whole_batch_of_steps_when_max_steps_end_in_it():
    for settings, steps in (({"fast_dev_run": True}, 1), ({"max_steps": 5}, 3)):
        sparse = trained(TwoOptimizers(), **settings)
        assert sparse.sparsifier.total_steps == sparse.sparsifier.step == steps


class Alternating(TwoOptimizers):
    """The first optimizer steps at every third batch only."""

    def training_step(self, batch, index):
        net, other = self.optimizers()
        for optimizer, part in [(other, self.other)] + [(net, self.net)] * (index % 3 == 2):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(part(batch[0]), batch[1]))
            optimizer.step()


@pytest.mark.parametrize(("model", "late"), [(TwoOptimizers, 2), (Alternating, None)], ids=["new", "not yet stepped"])
def test_what_two_optimizers_did_before_counts_once(model, late, tmp_path):
    """A checkpoint without masks after two batches, four steps; and one with masks whose optimizer has not stepped."""
    first = SparseTrainingCallback(RigL(0.7, schedule=EVERY_SECOND), include=["net"], name="other" if late else "")
    settings = {**QUIET, "max_steps": 24, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[first], limit_train_batches=2, max_epochs=1, **settings)
    trainer.fit(model(), SmallData())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    sparse = SparseTrainingCallback(RigL(0.7, schedule=EVERY_SECOND), include=["net"])
    steps = []
    watch = pl.callbacks.LambdaCallback(on_train_start=lambda *_: steps.append(sparse.sparsifier.step))
    trainer = pl.Trainer(callbacks=[sparse, watch], **settings)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(model(), SmallData(), ckpt_path=tmp_path / "two.ckpt")
    assert steps == [late or 0]
    assert any("holds no masks" in str(warning.message) for warning in told) == bool(late)


def test_two_optimizers_and_epochs_alone_are_refused():
    with pytest.raises(ValueError, match="known number of training steps"):
        trained(TwoOptimizers(), max_epochs=2)


@pytest.mark.parametrize(
    "settings", [{"max_steps": 0}, {"max_epochs": 0}, {"max_epochs": 1, "limit_train_batches": 0}], ids=str
)
def test_an_empty_training_leaves_the_network_as_it_is(settings):
    model = SmallModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sparse = trained(model, **settings)
    assert sparse.sparsifier is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert math.isclose(float((model.net[0].weight == 0).float().mean()), 0)


def test_no_data_is_an_empty_training():
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(0, 6), torch.zeros(0).long()))
    assert trained(SmallModel(), data=data, max_epochs=1).sparsifier is None
