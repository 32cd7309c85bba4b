"""Memory of the kernels: new tensors, and tensors that one call leaves to the next.

Fresh pages from the system cost as much as the products themselves. All memory is on the CPU, and float32 where nothing
else is asked for, whatever torch's defaults are. What is kept belongs to no mode: a tensor made in
`torch.inference_mode` could not be used outside.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

KEPT_FLOATS = 64 * 1024 * 1024
"""Most that a thread keeps: 256 MiB. What was not used for longest is given back first."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Kept(threading.local):
    def __init__(self) -> None:
        self.tensors: OrderedDict[Hashable, Tensor] = OrderedDict()


_KEPT = _Kept()


def of_no_mode(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function make its tensors on the CPU and outside of `torch.inference_mode`, so that they can be kept."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.inference_mode(False), torch.device("cpu"):
            return function(*args, **kwargs)

    return call


def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised tensor that is the caller's."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def new_zeros(*shape: int) -> Tensor:
    """As `new`, of zeros."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def scratch(name: str, *shape: int) -> Tensor:
    """Uninitialised tensor, valid until this thread asks for ``name`` again; it must not leave the operator.

    The memory is as large as the largest tensor asked for under that name; `release` gives it back.
    """
    size = math.prod(shape)
    kept = _KEPT.tensors.get(name)
    if kept is None or kept.shape[0] < size:
        kept = _keep(name, of_no_mode(new)(size))
    else:
        _KEPT.tensors.move_to_end(name)
    return kept[:size].view(shape)


def zeroed(name: Hashable, *shape: int) -> Tensor:
    """As `scratch`, and zero wherever nobody has written since the first call with this name and shape.

    For operands with margins: whoever uses a name always writes the same elements.
    """
    key = (name, shape)
    kept = _KEPT.tensors.get(key)
    if kept is None:
        return _keep(key, of_no_mode(new_zeros)(*shape))
    _KEPT.tensors.move_to_end(key)
    return kept


def release() -> None:
    """Free the memory kept for this thread."""
    _KEPT.tensors.clear()


def _keep(key: Hashable, tensor: Tensor) -> Tensor:
    """Keep a tensor, unless it is larger than all that may be kept."""
    tensors = _KEPT.tensors
    tensors.pop(key, None)
    tensors[key] = tensor
    total = sum(kept.numel() for kept in tensors.values())
    while total > KEPT_FLOATS:
        _, oldest = tensors.popitem(last=False)
        total -= oldest.numel()
    return tensor
