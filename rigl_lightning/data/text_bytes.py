"""Text for the character-level language model: windows of bytes from any folder, or from Python itself."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Sized
from pathlib import Path

import numpy as np
import torch

from rigl_lightning.data.in_memory import InMemoryDataModule, TensorBatches
from rigl_lightning.data.module import Batch
from rigl_lightning.data.resumable import ConsecutiveSampler, Position, ResumableSampler
from rigl_lightning.data.text_files import Bytes, cut, read_splits


class TextBytesDataModule(InMemoryDataModule):
    """Tokens and targets, both int64 (N, sequence_length); a target is the byte after its token.

    Each split is cut into windows of ``sequence_length + 1`` bytes that do not overlap (``consecutive`` ones share
    a byte); what is left over at
    its end is dropped. Training windows are shuffled in each epoch, the others stay in order.

    Args:
        root: Folder of UTF-8 text files, sub-folders included; names with train, valid or val, and test
            decide the splits (WikiText-103's and PTB's layouts), else the text is cut 90 : 5 : 5. None: the
            help topics of the running Python, some 700 kB of English, cut the same way; they differ
            between Python versions, so numbers on them compare within one version only.
        sequence_length: Tokens in a sequence; 512 in the paper.
        batch_size: Sequences in a batch *of each process*; 32 in the paper.
        consecutive: Whether each row of a training batch goes on where the same row of the previous batch ended, for a
            model that carries its state (``carry_state``); else training windows are shuffled.
        seed: Seed of order and dropout. None: the seed of ``seed_everything``, or 0.
    """

    on_gpu = False  # windows of one text overlap, and it may be larger than a GPU's memory

    def __init__(
        self,
        root: str | Path | None = None,
        sequence_length: int = 512,
        batch_size: int = 32,
        consecutive: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        self.root = root
        self.sequence_length = sequence_length
        self.consecutive = consecutive

    def read_splits(self) -> None:
        """Read all splits into memory.

        Raises:
            FileNotFoundError: If ``root``, or text in it, is missing.
            ValueError: If a split is missing or shorter than one window.
        """
        splits = python_help_topics() if self.root is None else read_splits(self.root)
        self.train_set = self._windows(splits, "train")
        self.val_set = self._windows(splits, "valid")
        self.test_set = self._windows(splits, "test")

    def train_sampler(self, dataset: Sized, rank: int, world_size: int, position: Position | None) -> ResumableSampler:
        """Shuffled windows, or consecutive ones."""
        if self.consecutive:
            return ConsecutiveSampler(dataset, self.batch_size, self.seed, rank, world_size, position)
        return super().train_sampler(dataset, rank, world_size, position)

    def _windows(self, splits: dict[str, Bytes], split: str) -> TensorBatches:
        text, length = splits[split], self.sequence_length + 1
        n_windows = len(text) // length
        if n_windows < 1:
            raise ValueError(
                f"Expected at least {length} bytes in the {split} split, got {len(text)}. Set "
                "`root` of the data module to a folder with more text, or a lower `sequence_length` of the data module."
            )
        # Consecutive windows share a byte: the last target of one is the first token of the next.
        windows = torch.from_numpy(text).unfold(0, length, length - 1 if self.consecutive else length)
        return TensorBatches(windows[:, :-1], windows[:, 1:], transform=_as_tokens)


def python_help_topics() -> dict[str, Bytes]:
    """The splits of the text of ``pydoc``'s help topics, in the order of their names."""
    topics: dict[str, str] = pydoc_data.topics.topics
    text = "".join(topics[name] for name in sorted(topics)).encode()
    return cut(np.frombuffer(text, dtype=np.uint8).copy())


def _as_tokens(batch: Batch) -> Batch:
    tokens, targets = batch
    return tokens.long(), targets.long()
