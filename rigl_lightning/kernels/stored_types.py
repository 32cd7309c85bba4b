"""Stored: a weight as the vector of its active values, which the tiers take in the place of a dense one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


class TakeGradient(Protocol):
    """What is done with the dense gradient of a weight, in its layer's backward pass, before that of the layer before.

    It is called with the first row and some rows of the gradient, from the top down.
    """

    @property
    def rows_at_once(self) -> int:
        """At most so many rows exist at a time, where the layer is a `torch.nn.Linear`; all at once elsewhere."""

    def __call__(self, first_row: int, rows: Tensor) -> None:
        """Take a piece, which is no longer needed afterwards."""


class Stored(NamedTuple):
    """A weight of which only the active connections exist.

    Attributes:
        values: (n_active,), in the order by row of its `SparsePattern`.
        shape: Of the dense weight.
    """

    values: Tensor
    shape: torch.Size

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype


def dense_weight(values: Tensor, shape: Sequence[int], positions: Tensor, take: TakeGradient | None = None) -> Tensor:
    """`scattered`, which hands its gradient on."""
    # Within a function transform of torch.func, which does not differentiate by the values, no hook would be called.
    is_outside = not torch._C._functorch.is_functorch_wrapped_tensor(values)
    with temporarily_clear_interpreter_stack() if is_outside else nullcontext():
        weight = scattered(values, shape, positions)
        if take is not None and weight.requires_grad:
            weight.register_hook(partial(_hand_on, take))
    return weight


def _hand_on(take: TakeGradient, gradient: Tensor) -> None:
    # Several gradients at once (`is_grads_batched`) are never added to those of parameters.
    if not torch._C._functorch.is_legacy_batchedtensor(gradient):
        take(0, gradient.detach().clone())


def scattered(values: Tensor, shape: Sequence[int], positions: Tensor) -> Tensor:
    """The dense tensor of values at the active ``positions``, zero elsewhere. Differentiable."""
    return values.new_zeros(math.prod(shape)).index_copy(0, positions, values).view(*shape)
