"""Which samples come next, and with which randomness: functions of the seed and the batches trained so far.

Lightning saves no random state and starts the data anew when it resumes in the middle of an epoch. It does
save how many batches were trained. Everything random about the data is therefore computed from that number,
so that a resumed run equals an uninterrupted one to the bit, on every rank.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sized
from itertools import chain

import pytorch_lightning as pl
import torch
from torch.utils.data import DistributedSampler

Position = Callable[[], tuple[int, int]]
"""Tells the epoch to draw from, and how many of its samples (of this rank) are already trained."""


class ResumableSampler(DistributedSampler[int]):
    """A shuffled order for each epoch, from the seed alone, that can be entered in the middle.

    Every rank gets the same number of samples; the few left over differ from epoch to epoch. It is a
    ``DistributedSampler`` also on one process, because Lightning replaces every other kind under DDP.

    Args:
        dataset: What is sampled; only its length is used.
        seed: Seed of the order, the same on all ranks.
        rank: Rank of this process.
        world_size: Number of processes.
        position: Asked whenever an epoch begins. None: the epoch of ``set_epoch``, from its beginning.

    >>> sampler = ResumableSampler(range(4), seed=0)
    >>> first = list(sampler)
    >>> list(ResumableSampler(range(4), seed=0, position=lambda: (0, 3))) == first[3:]
    True
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: Position | None = None,
    ) -> None:
        super().__init__(dataset, world_size, rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.position = position
        self.current_epoch = 0

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank: those of the epoch that are not yet trained."""
        # A generator, so that the position is asked for with the first sample: Lightning makes the iterator
        # earlier, even before it has read its progress from the checkpoint.
        epoch, n_trained = self.position() if self.position is not None else (self.epoch, 0)
        self.current_epoch = epoch
        generator = torch.Generator().manual_seed(_seed_of(self.seed, "order", epoch))
        order = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        yield from order[self.rank : self.total_size : self.num_replicas][n_trained:].tolist()


class ConsecutiveSampler(ResumableSampler):
    """Batches that go on where the ones before them ended: row i of a batch follows row i of the previous one.

    The samples are cut into ``batch_size`` equal stretches for each process, in their order; every row reads one, again
    in every epoch. What is left over at the end is not used.

    Args:
        dataset: What is sampled, in the order of a text.
        batch_size: Samples in a batch of each process.
        seed: Not used: nothing is shuffled.
        rank: Rank of this process.
        world_size: Number of processes.
        position: See `ResumableSampler`.

    >>> list(ConsecutiveSampler(range(7), batch_size=2, seed=0))
    [0, 3, 1, 4, 2, 5]
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: Position | None = None,
    ) -> None:
        super().__init__(dataset, seed, rank, world_size, position)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        """Samples of this rank: those of the epoch that are not yet trained."""
        _, n_trained = self.position() if self.position is not None else (0, 0)
        length = len(self.dataset) // (self.num_replicas * self.batch_size)  # type: ignore[arg-type]
        first = self.rank * self.batch_size * length
        for step in range(n_trained // self.batch_size, length):
            yield from range(first + step, first + step + self.batch_size * length, length)


class SeededSampler(ResumableSampler):
    """A `ResumableSampler` of pairs: the sample, and the seed for everything random about it in this epoch.

    The seed is a function of (seed, epoch, sample) alone, so that neither workers nor ranks matter.

    >>> (first, second), (again, _) = SeededSampler(range(2), seed=0), SeededSampler(range(2), seed=0)
    >>> first == again, first[1] == second[1]
    (True, False)
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """Indices of this rank with their seeds."""
        samples = super().__iter__()
        first = next(samples, None)  # the epoch is known with it
        if first is None:
            return
        for index in chain([first], samples):
            yield index, _seed_of(self.seed, "sample", self.current_epoch, index)


def batches_trained(trainer: pl.Trainer) -> int:
    """Training batches that went through the model since the first epoch, before any resume included.

    ``processed`` is the counter that is right at any moment, in a checkpoint as loaded too: it moves after the
    optimizer's step and before the hooks that save. ``completed`` lags behind in a checkpoint written in
    ``on_train_batch_end``, and ``ready`` is ahead in one written after an exception.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]


def batch_seed(seed: int, rank: int, batch: int) -> int:
    """Seed of everything random in one training batch: augmentation, dropout.

    Args:
        seed: Seed of the run.
        rank: Rank of the process, since each draws for its own samples.
        batch: Training batches before this one, over all epochs.

    Returns:
        An integer in [0, 2**32), spread so that neighbouring batches have unrelated streams.
    """
    return _seed_of(seed, rank, batch)


def _seed_of(*parts: object) -> int:
    return zlib.crc32("/".join(map(str, parts)).encode())
