"""Where the active connections of a weight are, in as few bytes as possible.

Two codes: a mask of one bit a connection, as in the paper's sizes, and the gaps from one active connection to the next,
a byte each, which is smaller from a sparsity of about 0.88 on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.packed_masks import pack_mask, unpack_mask

Code = Literal["mask", "gaps"]
_FULL = 255
"""A byte that says: so many further, and no connection yet."""


def encode(mask: Tensor) -> tuple[Code, Tensor]:
    """The shorter code of a boolean mask, and its bytes (uint8).

    >>> encode(torch.tensor([True, False, True]))
    ('mask', tensor([160], dtype=torch.uint8))
    """
    gaps = _gaps(mask.cpu().reshape(-1).numpy())
    if gaps.size < -(-mask.numel() // 8):
        return "gaps", torch.from_numpy(gaps)
    return "mask", pack_mask(mask)


def decode(code: Code, data: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `encode`: a boolean mask of ``shape``.

    Raises:
        ValueError: If the code is unknown or does not fit the shape.
    """
    if code == "mask":
        return unpack_mask(data, shape)
    if code != "gaps":
        raise SettingError(
            f"Expected the code 'mask' or 'gaps', got {code!r}. Was the file written by a newer version?"
        )
    data_bytes = data.numpy()
    ends = np.cumsum(data_bytes, dtype=np.int64)[data_bytes != _FULL] + np.arange((data_bytes != _FULL).sum())
    flat = np.zeros(math.prod(shape), dtype=bool)
    if ends.size and ends[-1] >= flat.size:
        raise SettingError(
            f"Expected connections of a weight {tuple(shape)}, got one at {ends[-1]}. The file is damaged."
        )
    flat[ends] = True
    return torch.from_numpy(flat).view(*shape)


def _gaps(flat: np.ndarray) -> np.ndarray:
    """Inactive connections before each active one; a gap of 255 or more begins with bytes of 255."""
    gaps = np.diff(np.flatnonzero(flat), prepend=-1) - 1
    lengths = gaps // _FULL + 1
    coded = np.full(lengths.sum(), _FULL, dtype=np.uint8)
    coded[np.cumsum(lengths) - 1] = gaps % _FULL
    return coded
