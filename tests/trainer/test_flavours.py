"""The callback works in a Trainer of either package name of Lightning."""

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import nn

from rigl_lightning import AtomicCheckpointIO, RigL, SparseTrainingCallback
from rigl_lightning.trainer.optimizers import total_steps
from tests.helpers.small_runs import QUIET, SCHEDULE, plain_loader


@pytest.mark.parametrize("flavour", [pytorch_lightning, lightning.pytorch], ids=["pytorch_lightning", "lightning"])
def test_either_flavour_trains_and_resumes(flavour, tmp_path):
    class Model(flavour.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 30)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def fit(epochs, ckpt_path=None):
        sparse = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE))
        trainer = flavour.Trainer(max_epochs=epochs, callbacks=sparse, enable_checkpointing=False, **QUIET)
        model = Model()
        trainer.fit(model, plain_loader(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model, sparse.sparsifier

    whole, sparsifier = fit(3)
    assert sparsifier.step == 18
    fit(1)
    resumed, again = fit(3, tmp_path / "1.ckpt")
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert again.checksums() == sparsifier.checksums()
    assert int((resumed.layer.weight != 0).sum()) <= sparsifier.n_active["layer.weight"] == 54


@pytest.mark.parametrize("flavour", [pytorch_lightning, lightning.pytorch], ids=["pytorch_lightning", "lightning"])
def test_either_flavour_saves_whole_files_and_has_its_accumulation_noticed(flavour, tmp_path):
    accumulation = flavour.callbacks.GradientAccumulationScheduler({0: 1, 1: 6})
    trainer = flavour.Trainer(callbacks=accumulation, plugins=AtomicCheckpointIO(), max_epochs=-1, **QUIET)
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    trainer.strategy.checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "one.ckpt")
    assert trainer.strategy.checkpoint_io.load_checkpoint(tmp_path / "one.ckpt") == {"step": 1}
    trainer.strategy._optimizers = [None]
    assert total_steps(trainer) is None  # no end is given: Lightning's estimate would be that of the first epoch
    trainer = flavour.Trainer(callbacks=accumulation, max_epochs=-1, max_steps=20, **QUIET)
    trainer.strategy._optimizers = [None]
    assert total_steps(trainer) == 20
