"""Memory that one call leaves to the next: fresh pages from the system cost as much as the products themselves."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable

import torch
from torch import Tensor


class _Kept(threading.local):
    def __init__(self) -> None:
        self.tensors: dict[Hashable, Tensor] = {}


_KEPT = _Kept()


def scratch(name: str, *shape: int) -> Tensor:
    """Uninitialised float32 tensor, valid until this thread asks for ``name`` again; it must not leave the operator.

    The memory is as large as the largest tensor asked for under that name; `release` gives it back.
    """
    size = math.prod(shape)
    kept = _KEPT.tensors
    if name not in kept or kept[name].shape[0] < size:
        kept[name] = torch.empty(size, dtype=torch.float32)
    return kept[name][:size].view(shape)


def zeroed(name: Hashable, *shape: int) -> Tensor:
    """As `scratch`, and zero wherever nobody has written since the first call with this name and shape.

    For operands with margins: whoever uses a name always writes the same elements.
    """
    kept = _KEPT.tensors
    if (name, shape) not in kept:
        kept[name, shape] = torch.zeros(shape, dtype=torch.float32)
    return kept[name, shape]


def release() -> None:
    """Free the memory kept for this thread."""
    _KEPT.tensors.clear()
