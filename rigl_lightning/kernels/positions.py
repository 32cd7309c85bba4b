"""Positions of True in a boolean tensor, and how many there are."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.kernels.tiers import is_fast_tier_on, is_plain

_LEAST = 1 << 15
"""Flags below which numpy is as fast."""


def count_active(mask: Tensor) -> int:
    """Number of True in a boolean tensor.

    >>> count_active(torch.tensor([[True, False], [True, True]]))
    3
    """
    return int(np.count_nonzero(mask.numpy())) if mask.device.type == "cpu" else int(torch.count_nonzero(mask))


def positions(mask: Tensor, count: int | None = None) -> Tensor:
    """Positions of True in a boolean tensor, in row-major order: int64, on its device.

    Args:
        mask: Of any shape.
        count: How many are True, if that is known already.

    >>> positions(torch.tensor([[True, False], [True, True]]))
    tensor([0, 2, 3])
    """
    if mask.device.type != "cpu":
        return mask.reshape(-1).nonzero().view(-1)
    if mask.dtype is torch.bool and mask.numel() >= _LEAST and is_fast_tier_on() and is_plain(mask):
        return _compiled().positions(mask.contiguous(), count_active(mask) if count is None else count)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


@cache
def _compiled() -> Any:
    from rigl_lightning.kernels.compiled import positions

    return positions
