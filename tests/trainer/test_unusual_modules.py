"""Modules that come late, or run their forward pass twice, and biases that are sparse."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.checkpoint import checkpoint

from rigl_lightning import RigL, SparseTrainingCallback, SparsityPlot, Uniform
from rigl_lightning.export import compact
from tests.helpers.small_runs import QUIET, SCHEDULE, SmallData, SmallModel, fit


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


@pytest.mark.parametrize("storage", ["dense", "connections"])
def test_sparse_biases_go_through_a_whole_training(tmp_path, storage):
    """Table, plot, metrics, stored connections of the weights next to masked biases, checkpoint, resume, export."""
    algorithm = RigL(0.5, Uniform(first_layer_dense=False), SCHEDULE, 0.5)

    def train(epochs, ckpt_path=None):
        model = SmallModel(dropout=0.0)
        ways = {"log_layers": True, "storage": storage, "compute": "sparse", "strict": True}
        sparse = SparseTrainingCallback(algorithm, include=["net.*", "*.bias"], **ways)
        callbacks = [sparse, SparsityPlot(tmp_path / "sparsity.png")]
        trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, **{**QUIET, "default_root_dir": tmp_path})
        trainer.fit(model, SmallData(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model, sparse

    model, sparse = train(3)
    masks = sparse.sparsifier.masks
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "net.0.weight": 48, "net.0.bias": 8, "net.3.weight": 24, "net.3.bias": 2,
    }  # fmt: skip
    assert sparse.metrics()["sparse/dead_units"] == sum(
        int((~masks[name].any(1)).sum()) for name in ("net.0.weight", "net.3.weight")
    )
    train(2)
    resumed, again = train(3, tmp_path / "2.ckpt")
    assert again.sparsifier.checksums() == sparse.sparsifier.checksums()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())
    small, x = compact(model.net, compute="sparse"), torch.randn(5, 6)
    torch.testing.assert_close(small(x), model(x))
