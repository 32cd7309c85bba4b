"""Autocast: values and sums of sparse layers are float32, and they answer in the dtype that a dense layer would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from rigl_lightning.kernels.tiers import takes_bfloat16

LOW = (torch.bfloat16, torch.float16)


def in_float32(layer: Callable[..., Any], x: Tensor, weight: Tensor, *rest: Any) -> Any:
    """``layer(x, weight, *rest)``; under CPU autocast with float32 tensors and the result in autocast's dtype.

    The kernels have no bfloat16 arithmetic. The fast tier reads and writes bfloat16 activations; other tensors of a
    lower precision are converted, and only those, as under autocast.

    Raises:
        RuntimeError: Without autocast, for bfloat16 inputs and a float32 weight, as torch does.
    """
    if x.device.type != "cpu" or weight.dtype != torch.float32:
        return layer(x, weight, *rest)
    if not torch.is_autocast_enabled("cpu"):
        if x.dtype is torch.bfloat16:
            raise RuntimeError("Expected inputs of the weight's dtype, torch.float32, got torch.bfloat16.")
        return layer(x, weight, *rest)
    dtype = torch.get_autocast_dtype("cpu")
    own = x if x.dtype is dtype is torch.bfloat16 and takes_bfloat16() else widened(x)
    with torch.autocast("cpu", enabled=False):
        out = layer(own, weight, *(widened(value) for value in rest))
    return out.to(dtype) if isinstance(out, Tensor) else tuple(o.to(dtype) for o in out)


def plain_precision() -> AbstractContextManager[Any]:
    """Autocast as the forward pass saw it, off: a backward pass may run within an autocast of the caller's."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def widened(value: Any) -> Any:
    """Tensors of low precision as float32, also those in lists and named tuples; all else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in LOW else value
    if isinstance(value, list):
        return [widened(item) for item in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(widened(item) for item in value))
    return value


def by_dense_operator(layer: Callable[..., Tensor], x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """``layer(x, weight, *rest)`` of torch, which wants one dtype, for bfloat16 ``x`` and a float32 weight, too."""
    if x.dtype is weight.dtype or x.dtype is not torch.bfloat16:
        return layer(x, weight, *rest)
    return layer(x.to(weight.dtype), weight, *rest).to(x.dtype)
