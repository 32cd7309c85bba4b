"""Precision plugins of the Trainer: scaled losses and gradients, and clipping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from rigl_lightning.sparsity.sparsifier import Sparsifier


def before_backward(trainer: pl.Trainer, sparsifier: Sparsifier, loss: torch.Tensor) -> None:
    """Show the Sparsifier a loss as it is without the factor of a GradScaler, which is on the device."""
    is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    # Nothing may wait for the factor at every step; it can make a loss infinite that is not, but not NaN.
    sparsifier.note_loss(loss.detach().nan_to_num(torch.nan, 0.0, 0.0) if is_scaled else loss)
    if sparsifier.algorithm.needs_hessian_gradient(sparsifier.step):
        mean_over_ranks = partial(trainer.strategy.reduce, reduce_op="mean")
        sparsifier.before_backward(_unscaled(trainer, loss), mean_over_ranks)


def _unscaled(trainer: pl.Trainer, loss: torch.Tensor) -> torch.Tensor:
    """Products of Hessian and gradient would have the square of the factor."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return loss if scaler is None else loss / scaler.get_scale()


def fused_step_overflowed(trainer: pl.Trainer, optimizer: Optimizer) -> bool:
    """Unscale the gradients of a fused optimizer under a GradScaler, and skip its step if they overflowed.

    Lightning leaves the gradients of fused optimizers scaled. A fused optimizer skips an overflowed step inside its
    kernel, where nobody can see it, and keeps uninitialised momenta if it was the first. So look before it does.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    scaler.unscale_(optimizer)
    found = scaler._found_inf_per_device(optimizer).values()
    if not any(value.item() for value in found):
        return False
    optimizer.zero_grad(set_to_none=True)
    return True


def skip_value_clipping(trainer: pl.Trainer) -> Callable[[], None]:
    """Have the Trainer clip only if there are gradients, in a ``configure_gradient_clipping`` of the module's own too.

    There are none in the steps of mask updates, nor for batches without a loss. Clipping by value stops there in torch.

    Returns:
        What undoes it.
    """
    plugin: Any = trainer.precision_plugin
    plugin._clip_gradients = partial(_clip_what_is_there, plugin._clip_gradients)  # not a closure: it is pickled
    return partial(vars(plugin).pop, "_clip_gradients", None)


def _clip_what_is_there(clip: Any, module: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
    if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
        clip(module, optimizer, *args, **kwargs)
