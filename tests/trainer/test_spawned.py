"""Processes that are spawned, as on macOS and Windows: data workers, and a fit of their own."""

import sys

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from rigl_lightning import RigL, SparseTrainingCallback
from tests.helpers.small_runs import QUIET, SCHEDULE, SmallModel, plain_loader

CONTEXTS = ["spawn"] if sys.platform == "win32" else ["spawn", "forkserver"]


class Collating(pl.LightningDataModule):
    """The workers of the validation, which start in the middle of fit, get the data module and so the Trainer."""

    def __init__(self, context):
        super().__init__()
        self.context = context

    def train_dataloader(self):
        return plain_loader()

    def val_dataloader(self):
        data = TensorDataset(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))
        return DataLoader(data, 4, num_workers=1, collate_fn=self.collate, multiprocessing_context=self.context)

    def collate(self, items):
        assert self.trainer.callbacks[0].optimizer is None  # there is none to follow here
        return default_collate(items)


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["dense", "sparse"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_workers_get_a_data_module_that_holds_the_trainer(context, compute):
    sparse = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), compute=compute)
    trainer = pl.Trainer(callbacks=[sparse], max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(SmallModel(), datamodule=Collating(context))
    assert sparse.sparsifier.step == 6
    assert "val/loss" in trainer.callback_metrics


@pytest.mark.slow
def test_a_spawned_fit_leaves_a_sparse_network_and_says_where_its_masks_are():
    sparse, model = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE)), SmallModel()
    settings = {"max_epochs": 1, "strategy": "ddp_spawn", "devices": 1, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[sparse], **settings, **QUIET)
    trainer.fit(model, plain_loader())
    weights = torch.cat([layer.weight.detach().flatten() for layer in (model.net[0], model.net[3])])
    assert int((weights != 0).sum()) <= 44
    assert float(trainer.callback_metrics["sparse/density"]) == pytest.approx(44 / 144)
    with pytest.raises(RuntimeError, match=r"no masks yet.*ddp_spawn.*trainer\.callback_metrics"):
        sparse.metrics()
