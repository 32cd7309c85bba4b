"""Modules that come late, or run their forward pass twice."""

import torch
from torch.utils.checkpoint import checkpoint

from rigl_lightning import RigL
from tests.helpers.small_runs import SCHEDULE, SmallModel, fit


class MadeLate(SmallModel):
    def configure_model(self):
        if not hasattr(self, "net"):
            self.net = self.__dict__.pop("late")

    def __init__(self):
        super().__init__(dropout=0.0)
        self.__dict__["late"] = self._modules.pop("net")  # hidden from everyone until Lightning asks for it


class RunsTwice(SmallModel):
    """Gradient checkpointing: backward computes the forward pass again."""

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


def test_a_network_made_in_configure_model_gets_masks():
    _, sparse, watch = fit(RigL(0.7, schedule=SCHEDULE), MadeLate())
    _, plain, _ = fit(RigL(0.7, schedule=SCHEDULE), SmallModel(dropout=0.0))
    assert set(watch.densities) == {44 / 144}
    assert sparse.sparsifier.checksums() == plain.sparsifier.checksums()


def test_gradient_checkpointing_changes_neither_masks_nor_flops():
    twice, sparse, _ = fit(RigL(0.7, schedule=SCHEDULE), RunsTwice(dropout=0.0))
    once, plain, _ = fit(RigL(0.7, schedule=SCHEDULE), SmallModel(dropout=0.0))
    assert sparse.sparsifier.checksums() == plain.sparsifier.checksums()
    assert sparse.flops.dense == plain.flops.dense
    assert all(torch.equal(value, once.state_dict()[key]) for key, value in twice.state_dict().items())
