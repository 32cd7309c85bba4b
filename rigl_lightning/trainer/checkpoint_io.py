"""Checkpoint files that are whole: a process killed while it saves leaves the previous checkpoint as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import local, make_folder, replacing
from rigl_lightning.base.loading import is_of_the_disk, why_unreadable
from rigl_lightning.trainer.flavours import load_other_flavour

_VERSION = "pytorch-lightning_version"
"""Every checkpoint of Lightning has it, and Lightning fails at one that has not."""


def _flavours() -> tuple[type, ...]:
    """Of every installed flavour of Lightning, so that any Trainer takes this plugin."""
    other = load_other_flavour()
    return (TorchCheckpointIO,) if other is None else (TorchCheckpointIO, other.plugins.io.TorchCheckpointIO)


class AtomicCheckpointIO(*_flavours()):  # type: ignore[misc]
    """Writes a checkpoint next to its place, forces it to disk and then renames it: at once, or not at all.

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
        if storage_options is not None or local(path) is None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        make_folder(path)
        with replacing(path) as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint of Lightning.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: In one line, if it is empty, damaged or something else.
        """
        try:
            content: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # of pickle, zip or torch: whatever foreign bytes make of them
            if is_of_the_disk(error):
                raise
            reason = why_unreadable(path, error)
            raise SettingError(f"Expected a checkpoint at {path}, but the file {reason}. Set `ckpt_path`.") from error
        lacking = _lacking(content)
        if lacking is not None:
            raise SettingError(
                f"Expected a checkpoint of Lightning at {path}, found no `{lacking}` in it. Set `ckpt_path`; weights "
                "alone are loaded with load_state_dict."
            )
        return content


def write_whole_files(trainer: pl.Trainer) -> None:
    """Have the checkpoints of a Trainer written whole or not at all, unless a plugin says how to write them."""
    strategy = trainer.strategy
    whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)  # others split checkpoints, or refuse plugins
    if whole and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()


def _lacking(content: Any) -> str | None:
    """What a file that another program wrote, such as a ``state_dict`` alone, has not; None for one of Lightning."""
    if not isinstance(content, Mapping):
        return "state_dict"
    if "state_dict" in content:
        return None if _VERSION in content else _VERSION
    return "state_dict" if any(isinstance(v, torch.Tensor | Mapping) for v in content.values()) else None
