"""Divergence: the first loss and the first gradient that are not finite, each told once, with its step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.kernels.grouped import all_finite

_NEVER = 2**62
_FEW = 64  # numbers that are read one by one sooner than an operator is started
_REMEDY = (
    "Look at the batch, lower the learning rate, or clip gradients; torch.autograd.set_detect_anomaly(True) names the "
    "operation."
)


class Divergence:
    """Looks at losses and gradients without making a device wait.

    On the CPU both are told at once. Elsewhere the step of the first bad loss is kept on the device until
    `warn_of_loss` is called, at a moment when the device is waited for anyway; gradients are not looked at.

    >>> watch = Divergence()
    >>> watch.see_loss(torch.tensor(0.5), step=0)  # says nothing
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._loss_is_told = False
        self._gradients_are_told = False
        self._suspects = False
        self._smallest: Tensor | None = None  # the parameter, until it has no gradient

    def see_loss(self, loss: Tensor, step: int) -> None:
        """Look at the loss of a step.

        Args:
            loss: Scalar; or several, as backward passes of several losses at once have them.
            step: Optimizer steps completed.
        """
        if self._loss_is_told:
            return
        loss = loss.detach() if loss.numel() == 1 else loss.detach().abs().max()
        if loss.device.type == "cpu":
            if not math.isfinite(value := float(loss)):
                self._warn(f"{value}", step)
            return
        found = torch.where(loss.isfinite(), _NEVER, step)
        self._first = found if self._first is None else torch.minimum(self._first, found)

    def warn_of_loss(self) -> None:
        """Say what a device has noted; the host waits for it."""
        if self._first is not None and not self._loss_is_told:
            first = int(self._first)
            self._first = None
            if first != _NEVER:
                self._warn("not finite (NaN or infinite)", first)

    def begin_step(self) -> None:
        """What the step before has seen is over; a GradScaler may have skipped it."""
        self._suspects = False

    def see_gradients(self, optimizer: Optimizer) -> None:
        """Look at the smallest gradient of a step: a loss that is not finite reaches nearly all of them.

        Args:
            optimizer: Is about to use them, masked. Those of other devices are passed over.
        """
        if self._gradients_are_told:
            return
        if self._smallest is None or self._smallest.grad is None:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if _is_readable(p.grad)]
            self._smallest = min(parameters, key=Tensor.numel, default=None)
        gradient = None if self._smallest is None else self._smallest.grad
        self._suspects = _is_readable(gradient) and not _is_finite(gradient)

    def warn_of_gradients(self, sparse_gradients: Callable[[], Mapping[str, Tensor]], step: int) -> None:
        """Say which layers have a gradient that is not finite, if one was seen, after the step was really taken.

        Args:
            sparse_gradients: Gives those of the sparse weights, by name.
            step: Optimizer steps completed before this one.
        """
        if not self._suspects:
            return
        self._suspects, self._gradients_are_told = False, True
        names = [name for name, gradient in sparse_gradients().items() if not all_finite([gradient])]
        where = f"layer {names[0]!r} ({len(names)} such sparse layers)" if names else "a weight that is not sparse"
        warnings.warn(
            f"The gradient of {where} is not finite at step {step}, and active weights take it, as without masks. "
            f"{_REMEDY}",
            stacklevel=3,
            category=SparseTrainingWarning,
        )

    def note_told(self) -> None:
        """Somebody else has named the layer."""
        self._suspects, self._gradients_are_told = False, True

    def _warn(self, what: str, step: int) -> None:
        self._loss_is_told = True
        warnings.warn(
            f"The loss is {what} at step {step} ({step} optimizer steps completed). {_REMEDY}",
            stacklevel=4,
            category=SparseTrainingWarning,
        )


def _is_readable(gradient: Tensor | None) -> TypeGuard[Tensor]:
    """Whether reading it makes nobody wait: no device, and no other process, which tensors of other classes may ask."""
    return type(gradient) is Tensor and gradient.layout == torch.strided and gradient.is_cpu and gradient.numel() > 0


def _is_finite(gradient: Tensor) -> bool:
    if gradient.ndim == 1 and gradient.numel() <= _FEW:
        return all(map(math.isfinite, gradient.tolist()))
    return all_finite([gradient])
