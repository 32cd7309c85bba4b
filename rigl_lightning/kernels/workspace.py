"""Memory that one call leaves to the next: fresh pages from the system cost as much as the products themselves."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_LOCAL = threading.local()


def scratch(name: str, *shape: int) -> Tensor:
    """Uninitialised float32 tensor, valid until this thread asks for ``name`` again; it must not leave the operator.

    The memory is as large as the largest tensor asked for under that name; `release` gives it back.
    """
    size = math.prod(shape)
    kept: dict[str, Tensor] = _LOCAL.__dict__
    if name not in kept or kept[name].shape[0] < size:
        kept[name] = torch.empty(size, dtype=torch.float32)
    return kept[name][:size].view(shape)


def release() -> None:
    """Free the memory kept for this thread."""
    _LOCAL.__dict__.clear()
