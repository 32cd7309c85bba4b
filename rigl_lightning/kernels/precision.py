"""Autocast: sparse layers compute in float32, and answer in the dtype that a dense layer would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_LOW = (torch.bfloat16, torch.float16)


def in_float32(layer: Callable[..., Any], x: Tensor, weight: Tensor, *rest: Any) -> Any:
    """``layer(x, weight, *rest)``; under CPU autocast with float32 tensors and the result in autocast's dtype.

    The kernels have no bfloat16 arithmetic. As under autocast, only tensors of a lower precision are converted.
    """
    if x.device.type != "cpu" or weight.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"):
        return layer(x, weight, *rest)
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        out = layer(_widened(x), weight, *(_widened(value) for value in rest))
    return out.to(dtype) if isinstance(out, Tensor) else tuple(o.to(dtype) for o in out)


def plain_precision() -> AbstractContextManager[Any]:
    """Autocast as the forward pass saw it, off: a backward pass may run within an autocast of the caller's."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _widened(value: Any) -> Any:
    """Tensors of low precision as float32, also those in lists and named tuples."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _LOW else value
    if isinstance(value, list):
        return [_widened(item) for item in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_widened(item) for item in value))
    return value
