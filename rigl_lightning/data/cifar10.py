"""CIFAR-10 as in section 4.3 of the paper: all 50,000 images train, the 10,000 test images evaluate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from rigl_lightning.data.augmentation import random_crop_and_flip, standardise
from rigl_lightning.data.in_memory import InMemoryDataModule, TensorBatches
from rigl_lightning.data.module import Batch
from rigl_lightning.data.torchvision_files import open_dataset

FULL_RESOLUTION = 32
FULL_PADDING = 4


class CIFAR10DataModule(InMemoryDataModule):
    """Standardised images (N, 3, R, R) and labels (N,); crops and flips in training.

    Validation and test are the same 10,000 images: the paper keeps no validation split, so its accuracies
    are comparable only without one. Choose nothing by them that you then report.

    The training loader alone gives uint8 images as stored, a quarter of the bytes to move;
    ``augment`` standardises, crops and flips them on the device, which Lightning has it do.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        batch_size: Images in a batch *of each process*; 128 in the paper.
        download: Whether to download the data when they are missing.
        resolution: Height and width, at most 32. Smaller ones average areas of the original pixels, once;
            the padding of the crops shrinks alike.
        seed: Seed of order, augmentation and dropout. None: the seed of ``seed_everything``, or 0.

    Raises:
        ValueError: If ``resolution`` is outside [1, 32].
    """

    published_size = 50_000

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 128,
        download: bool = False,
        resolution: int = FULL_RESOLUTION,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        if not 1 <= resolution <= FULL_RESOLUTION:
            raise ValueError(
                f"Expected `resolution` in [1, {FULL_RESOLUTION}], got {resolution}. Set "
                f"`resolution` of {type(self).__name__}."
            )
        self.root = root
        self.download = download
        self.resolution = resolution
        self.padding = round(FULL_PADDING * resolution / FULL_RESOLUTION)

    def prepare_data(self) -> None:
        """Download, or say what is missing; on one process."""
        self._open(train=True, download=self.download)

    def read_splits(self) -> None:
        """Read both splits into memory."""
        self.train_set = TensorBatches(*self._read(train=True))
        self.val_set = TensorBatches(*self._read(train=False), transform=_standardised)
        self.test_set = self.val_set

    def augment(self, batch: Batch) -> Batch:
        """Stored images to standardised, randomly cropped and flipped ones."""
        images, labels = batch
        return random_crop_and_flip(standardise(images), self.padding), labels

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, R, R) and labels int64 (N,)."""
        data = self._open(train, download=False)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return _reduced(images, self.resolution), torch.tensor(data.targets)

    def _open(self, train: bool, download: bool) -> CIFAR10:
        return open_dataset(CIFAR10, "CIFAR-10", self.root, CIFAR10.base_folder, train, download)


def _reduced(images: Tensor, resolution: int) -> Tensor:
    """Images averaged down to the resolution, still uint8, in parts that bound the memory."""
    if images.shape[-1] == resolution:
        return images
    parts = [F.interpolate(part.float(), size=resolution, mode="area") for part in torch.split(images, 5000)]
    return torch.cat([part.round().to(torch.uint8) for part in parts])


def _standardised(batch: Batch) -> Batch:
    images, labels = batch
    return standardise(images), labels
