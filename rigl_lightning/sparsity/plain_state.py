"""Values as checkpoints keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def plain_state(value: Any) -> Any:
    """A copy with tensors on the CPU and containers of Python's own, which loads with ``weights_only``."""
    if isinstance(value, Mapping):
        return {key: plain_state(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(plain_state(entry) for entry in value)
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value
