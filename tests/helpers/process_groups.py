"""Process groups for tests: several ranks (gloo) that run many trainings, started once because starting is slow."""

import os
import socket

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning import SparseTrainingCallback
from rigl_lightning.data import InMemoryDataModule, TensorBatches
from tests.helpers.small_runs import QUIET

GLOBAL_BATCH = 8


def run_in_world(size, work, *args):
    """Call ``work(*args)`` in ``size`` processes at once; what one raises is raised here."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.start_processes(_enter, (size, port, work, args), nprocs=size, start_method="fork")


def _enter(rank, size, port, work, args):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), SIZE_OF_THE_WORLD=str(size))
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0")  # what tells Lightning not to start processes of its own
    work(*args)


def world_size():
    """Processes of this world; 1 outside of any. Lightning deletes a WORLD_SIZE after the first training."""
    return int(os.environ.get("SIZE_OF_THE_WORLD", 1))


class Images(InMemoryDataModule):
    """48 images of 4x4, the same global batches of 8 whatever the number of processes."""

    def read_splits(self):
        images = torch.randn(48, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        labels = (images.flatten(1)[:, :8].sum(1) > 0).long() + 2 * (images.flatten(1)[:, 8:].sum(1) > 0).long()
        self.train_set = self.val_set = self.test_set = TensorBatches(images, labels)


class ImageModel(pl.LightningModule):
    """36 + 256 sparse weights and no batch norm, whose statistics would be those of each rank's own part."""

    def __init__(self, optimizer=torch.optim.SGD, n_unused=0, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
        self.unused = nn.Linear(8, 8) if n_unused else None
        self.optimizer = optimizer
        self.settings = settings or {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), **self.settings)


def train_in_world(folder, algorithm, strategy="ddp", model=None, data=None, compute=None, **settings):
    """Train on every rank of this world, or on one process outside of any, and leave the result in ``folder``."""
    size, rank = world_size(), int(os.environ.get("LOCAL_RANK", 0))
    sparse = SparseTrainingCallback(algorithm, seed=5, **({"compute": compute} if compute else {}))
    trainer = pl.Trainer(
        callbacks=[sparse],
        devices=size,
        strategy=strategy if size > 1 else "auto",
        enable_checkpointing=False,
        **{**QUIET, "max_epochs": 3, **settings},
    )
    model = model or ImageModel()
    trainer.fit(model, data or Images(GLOBAL_BATCH // size, seed=1))
    result = {
        "masks": dict(sparse.sparsifier.masks),
        "weights": model.state_dict(),
        "step": sparse.sparsifier.step,
        "last_update": sparse.sparsifier.last_update and sparse.sparsifier.last_update.step,
    }
    folder.mkdir(exist_ok=True)
    torch.save(result, folder / f"{size}-{rank}.pt")


def assert_same_in_all_worlds(folder, sizes):
    """The masks of one process on every rank of every world, its weights within rounding; ranks equal to the bit."""
    one = torch.load(folder / "1-0.pt")
    for size in sizes:
        first, *others = (torch.load(folder / f"{size}-{rank}.pt") for rank in range(size))
        assert (first["step"], first["last_update"]) == (one["step"], one["last_update"])
        for layer, mask in one["masks"].items():
            assert torch.equal(first["masks"][layer], mask), f"{layer} in a world of {size}"
        for key, weight in one["weights"].items():
            torch.testing.assert_close(first["weights"][key], weight, rtol=1e-4, atol=1e-6)
        for rank in others:
            for part in ("masks", "weights"):
                assert all(torch.equal(rank[part][key], value) for key, value in first[part].items()), (size, part)
    return one
