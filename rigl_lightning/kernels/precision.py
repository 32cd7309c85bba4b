"""Autocast: sparse layers compute in float32, and answer in the dtype that a dense layer would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def in_float32(layer: Callable[..., Any], x: Tensor, weight: Tensor, *rest: Any) -> Any:
    """``layer(x, weight, *rest)``; under CPU autocast with float32 inputs and the result in autocast's dtype.

    The kernels have no bfloat16 arithmetic.
    """
    if x.device.type != "cpu" or weight.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"):
        return layer(x, weight, *rest)
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        out = layer(x.float(), weight, *rest)
    return out.to(dtype) if isinstance(out, Tensor) else tuple(o.to(dtype) for o in out)
