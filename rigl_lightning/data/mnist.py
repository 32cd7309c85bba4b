"""MNIST as in appendix B of the paper: pixels in [0, 1], nothing else."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import MNIST

from rigl_lightning.data.in_memory import InMemoryDataModule, TensorBatches
from rigl_lightning.data.module import Batch
from rigl_lightning.data.torchvision_files import open_dataset

FOLDER = "MNIST/raw"


class MNISTDataModule(InMemoryDataModule):
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,), not augmented.

    All 60,000 training images train; validation and test are the same 10,000 test images.

    Args:
        root: Folder that holds ``MNIST/raw``.
        batch_size: Images in a batch *of each process*; 100 in the paper.
        download: Whether to download the data when they are missing.
        seed: Seed of order and dropout. None: the seed of ``seed_everything``, or 0.
    """

    published_size = 60_000

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 100,
        download: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download, or say what is missing; on one process."""
        open_dataset(MNIST, "MNIST", self.root, FOLDER, train=True, download=self.download)

    def read_splits(self) -> None:
        """Read both splits into memory."""
        self.train_set, self.val_set = self._read(train=True), self._read(train=False)
        self.test_set = self.val_set

    def _read(self, train: bool) -> TensorBatches:
        data = open_dataset(MNIST, "MNIST", self.root, FOLDER, train, download=False)
        return TensorBatches(data.data.unsqueeze(1), data.targets, transform=_scaled)


def _scaled(batch: Batch) -> Batch:
    images, labels = batch
    return images.float() / 255, labels
