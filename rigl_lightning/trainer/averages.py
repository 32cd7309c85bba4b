"""Averaged weights of Lightning's callbacks (EMA, SWA), which have to be as sparse as the weights."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn

from rigl_lightning.trainer.flavours import callbacks_of
from rigl_lightning.trainer.optimizers import StepHook


def mask_averages(trainer: pl.Trainer, hook: StepHook | None) -> None:
    """Mask the averaged weights of Lightning's weight averaging (EMA) and SWA callbacks with the masks of now.

    They copy the weights before there are masks and average over masks that change, so that without this the network
    that is validated and saved is denser than the one that is trained.
    """
    if hook is None or hook.sparsifier is None:  # something else is validated or saved
        return
    for callback in callbacks_of(trainer):
        average = getattr(callback, "_average_model", None)
        if isinstance(average, nn.Module):
            hook.sparsifier.apply_masks_to(getattr(average, "module", average))
