"""Checkpoint files that are whole: a process killed while it saves leaves the previous checkpoint as it was."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from rigl_lightning.trainer.optimizers import load_other_flavour

_REMOTE = "://"


def _flavours() -> tuple[type, ...]:
    """Of every installed flavour of Lightning, so that any Trainer takes ours for a plugin."""
    other = load_other_flavour()
    return (TorchCheckpointIO,) if other is None else (TorchCheckpointIO, other.plugins.io.TorchCheckpointIO)


class AtomicCheckpointIO(*_flavours()):  # type: ignore[misc]
    """Writes a checkpoint beside its place, forces it to disk and then renames it, which happens at once or not at all.

    Lightning writes to the system's folder for temporary files and moves the result. Where that folder is another file
    system (a memory disk, a cluster's local disk) moving is copying: a process killed in the middle leaves a torn file,
    and if that replaced ``last.ckpt``, nothing to resume from. A power failure can tear any file that was not forced to
    disk.

    The command line uses it by itself. A remote path (``s3://...``) is left to Lightning.

    A Trainer with it:

        trainer = pl.Trainer(plugins=AtomicCheckpointIO(), callbacks=SparseTrainingCallback(RigL(sparsity=0.9)))
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to ``path``; what was there before stays until all is written."""
        if storage_options is not None or _REMOTE in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished")  # the next save of this name writes over a leftover
        try:
            _write(checkpoint, unfinished)
            os.replace(unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _force_to_disk(target.parent)


def write_whole_files(trainer: pl.Trainer) -> None:
    """Have the checkpoints of a Trainer written whole or not at all, unless a plugin says how to write them."""
    strategy = trainer.strategy
    whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)  # others split checkpoints, or refuse plugins
    if whole and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()


def _write(checkpoint: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _force_to_disk(folder: Path) -> None:
    """The name of a new file is in its folder, which is written on its own."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
