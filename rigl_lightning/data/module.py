"""The DataModule all benchmarks share: an order, and randomness, that a resumed run takes up exactly."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sized
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rigl_lightning.data.resumable import Position, ResumableSampler, batch_seed, batches_trained

Batch = tuple[Tensor, Tensor]


class ResumableDataModule(pl.LightningDataModule):
    """Loaders over ``train_set``, ``val_set`` and ``test_set``, which ``read_splits`` of a subclass fills.

    Training batches are shuffled, whole, and resumable anywhere (``resumable.py``). On its device, each one
    first seeds torch from (seed, rank, number of the batch) and then goes through ``augment``; so
    augmentation and dropout do not depend on what was drawn before. Evaluation is in order and complete.

    Args:
        batch_size: Samples in a batch *of each process*.
        seed: Seed of order and randomness. None: the seed of ``seed_everything``, or 0 without one.
            A resumed run without a seed of its own takes that of the checkpoint.

    Attributes:
        published_size: Training samples of the data set as published, or None; see `plan_without_data`.
    """

    published_size: int | None = None

    train_set: Any
    val_set: Any
    test_set: Any

    def __init__(self, batch_size: int, seed: int | None = None) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(
                f"Expected `batch_size` of at least 1, got {batch_size}. Set `batch_size` of {type(self).__name__}."
            )
        self.batch_size = batch_size
        self._seed = seed

    @property
    def seed(self) -> int:
        """The seed in force."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self._seed is None else self._seed

    def read_splits(self) -> None:
        """Fill ``train_set``, ``val_set`` and ``test_set``; called once in each process."""
        raise NotImplementedError(f"{type(self).__name__} has to define read_splits().")

    def loader(self, dataset: Any, **settings: Any) -> DataLoader[Batch]:
        """A loader over a split, whole batches or in order as ``settings`` say; what a subclass may do its own way."""
        # By keyword: Lightning rebuilds the loader for predict and fails on a positional batch size.
        return DataLoader(dataset, batch_size=self.batch_size, **settings)

    def setup(self, stage: str) -> None:
        """Read all splits, once.

        Raises:
            ValueError: If a process has fewer training samples than one batch. It is raised here, and not when the
                loader is made: Lightning patches torch's DataLoader meanwhile, and leaves it so after an error.
        """
        if not hasattr(self, "train_set"):
            self.read_splits()
        if stage == "fit":
            self._n_batches()

    def plan_without_data(self) -> bool:
        """Stand in for training samples that are not there, so that the steps of a training can be counted.

        Returns:
            Whether it could: the published number of them is known.
        """
        if self.published_size is None:
            return False
        self.train_set = range(self.published_size)
        return True

    def augment(self, batch: Batch) -> Batch:
        """Randomly change a training batch, on whatever device it is; by default not at all."""
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed and augment training batches; leave the others alone."""
        trainer = self.trainer
        # Lightning's model summary sends the module's example input, a bare tensor, through here too.
        if trainer is None or not trainer.training or isinstance(batch, Tensor):
            return batch
        # Where torch could use CUDA but has not, torch.manual_seed formats a stack trace: 5 % of a small step.
        on_cpu = trainer.strategy.root_device.type == "cpu"
        seed_torch = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        seed_torch(batch_seed(self.seed, trainer.global_rank, batches_trained(trainer)))
        return self.augment(batch)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled whole batches, beginning where the training stands."""
        trainer, n_batches = self.trainer, self._n_batches()
        rank, world_size = _rank_and_world_size(trainer)
        position = None if trainer is None else partial(_position, trainer, n_batches, self.batch_size)
        sampler = self.train_sampler(self.train_set, rank, world_size, position)
        # Lightning cannot know that this loader resumes, and warns that it does not.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")
        return self.loader(self.train_set, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order."""
        return self.loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split in order."""
        return self.loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test split, whose targets a prediction ignores."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The seed: with another one a resumed run would not go on in the same order."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the checkpoint's seed, unless one was given."""
        if self._seed is None:
            self._seed = state_dict["seed"]

    def train_sampler(self, dataset: Sized, rank: int, world_size: int, position: Position | None) -> ResumableSampler:
        """The order of the training samples; see `ResumableSampler` for the arguments."""
        return ResumableSampler(dataset, self.seed, rank, world_size, position)

    def _n_batches(self) -> int:
        """Training batches of this process in an epoch."""
        n_samples = len(self.train_set) // _rank_and_world_size(self.trainer)[1]
        if n_samples < self.batch_size:
            raise ValueError(
                f"Expected `batch_size` of at most {n_samples} (training samples of one process), got "
                f"{self.batch_size}. Set `batch_size` of {type(self).__name__}."
            )
        return n_samples // self.batch_size


def _rank_and_world_size(trainer: pl.Trainer | None) -> tuple[int, int]:
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def _position(trainer: pl.Trainer, n_batches: int, batch_size: int) -> tuple[int, int]:
    """Epoch, and samples of it already trained; ``limit_train_batches`` shortens the epochs."""
    epoch, batch = divmod(batches_trained(trainer), int(min(n_batches, trainer.num_training_batches)))
    return epoch, batch * batch_size
