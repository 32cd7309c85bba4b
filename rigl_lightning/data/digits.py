"""The 8x8 handwritten digits that come with scikit-learn: an image benchmark without any download."""

from __future__ import annotations

import torch

from rigl_lightning.data.in_memory import InMemoryDataModule, TensorBatches
from rigl_lightning.data.module import Batch

STORED_RESOLUTION = 8
N_VALIDATION = 360
BRIGHTEST = 16


class DigitsDataModule(InMemoryDataModule):
    """Images (N, C, R, R) in [0, 1] and labels (N,): 1437 to train, 360 to validate and test.

    The split keeps the proportions of the ten classes and is always the same, whatever the seed.

    Args:
        batch_size: Images in a batch *of each process*.
        seed: Seed of order and dropout. None: the seed of ``seed_everything``, or 0.
        channels: Copies of the one channel, for networks that take colour images.
        resolution: Height and width, a multiple of 8; pixels are repeated.

    Raises:
        ValueError: If ``resolution`` is no multiple of 8, or there is no channel.
    """

    def __init__(
        self, batch_size: int = 50, seed: int | None = None, channels: int = 1, resolution: int = STORED_RESOLUTION
    ) -> None:
        super().__init__(batch_size, seed)
        if resolution < 1 or resolution % STORED_RESOLUTION:
            raise ValueError(
                f"Expected `resolution` to be a multiple of 8, got {resolution}. Set `resolution` of "
                f"{type(self).__name__}."
            )
        if channels < 1:
            raise ValueError(
                f"Expected `channels` of at least 1, got {channels}. Set `channels` of {type(self).__name__}."
            )
        self.channels = channels
        self.resolution = resolution

    def read_splits(self) -> None:
        """Load and split the images."""
        # Seconds to import: every command would wait for them.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
        repeats = self.resolution // STORED_RESOLUTION
        images = images.expand(-1, self.channels, -1, -1)
        images = images.repeat_interleave(repeats, dim=2).repeat_interleave(repeats, dim=3)
        labels = torch.from_numpy(digits.target)
        train, held_out = train_test_split(
            torch.arange(len(labels)), test_size=N_VALIDATION, stratify=labels, random_state=0
        )
        self.train_set = TensorBatches(images[train], labels[train], transform=_scaled)
        self.val_set = TensorBatches(images[held_out], labels[held_out], transform=_scaled)
        self.test_set = self.val_set


def _scaled(batch: Batch) -> Batch:
    images, labels = batch
    return images.float() / BRIGHTEST, labels
