"""Masks at one bit a connection, and masks that are made when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError

Make = Callable[[], Tensor]
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.int64)
_PIECE = 1 << 20


def pack_mask(mask: Tensor) -> Tensor:
    """Mask as bits: ``uint8`` CPU tensor of ``ceil(number of connections / 8)`` bytes, in row-major order.

    >>> pack_mask(torch.tensor([True, False, True, False, False, False, False, False, True]))
    tensor([160, 128], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.cpu().reshape(-1).numpy()))


def unpack_mask(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `pack_mask`: boolean CPU tensor of ``shape``.

    Raises:
        ValueError: If there are fewer or more bytes than the shape asks for.
    """
    numel = math.prod(shape)
    if bits.numel() != -(-numel // 8):
        raise SettingError(f"Expected {-(-numel // 8)} bytes for a mask of shape {tuple(shape)}, got {bits.numel()}.")
    unpacked = np.unpackbits(bits.cpu().numpy(), count=numel)
    return torch.from_numpy(unpacked.astype(bool)).view(*shape)


def in_few_bytes(positions: Tensor) -> Tensor:
    """Ascending positions as int32, or as they are where a layer has more connections than that counts.

    >>> in_few_bytes(torch.tensor([3, 7])), in_few_bytes(torch.tensor([3, 2**31]))
    (tensor([3, 7], dtype=torch.int32), tensor([         3, 2147483648]))
    """
    fits = not positions.numel() or int(positions[-1]) <= torch.iinfo(torch.int32).max
    return positions.int() if fits else positions


class LayerMasks(Mapping[str, Tensor]):
    """Boolean masks by layer name, in the order given. Those that are made anew at each reading cannot be changed.

    Args:
        masks: One of every layer, or what makes it.
    """

    def __init__(self, masks: Mapping[str, Tensor | Make]) -> None:
        self._kept: dict[str, Tensor | Make] = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        found = self._kept[name]
        return found if isinstance(found, Tensor) else found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def kept(self) -> dict[str, Tensor]:
        """Those that are there, and not made when they are read."""
        return {name: mask for name, mask in self._kept.items() if isinstance(mask, Tensor)}

    def replace(self, name: str, mask: Tensor | Make) -> None:
        """Keep a tensor, or a function that makes one."""
        self._kept[name] = mask


class PackedMask:
    """A mask of one bit a connection, to which connections are added.

    Args:
        bits: As of `pack_mask`; changed in place.
        shape: Of the mask.

    >>> packed = PackedMask.of_positions(torch.tensor([0, 2, 8]), (3, 3))
    >>> packed.add(torch.tensor([1, 2])), packed.add(torch.tensor([1]))
    (1, 0)
    >>> packed.mask().int().tolist()
    [[1, 1, 1], [0, 0, 0], [0, 0, 1]]
    """

    def __init__(self, bits: Tensor, shape: Sequence[int]) -> None:
        self.bits, self.shape = bits, tuple(shape)

    @staticmethod
    def of(mask: Tensor) -> PackedMask:
        """That of a boolean tensor."""
        return PackedMask(pack_mask(mask), mask.shape)

    @staticmethod
    def of_positions(positions: Tensor, shape: Sequence[int]) -> PackedMask:
        """That of ascending positions in row-major order."""
        packed = PackedMask(torch.zeros(-(-math.prod(shape) // 8), dtype=torch.uint8), shape)
        packed.add(positions)
        return packed

    def mask(self) -> Tensor:
        """As a boolean tensor."""
        return unpack_mask(self.bits, self.shape)

    def count(self) -> int:
        """Number of set bits."""
        pieces = self.bits.numpy().reshape(-1)
        return sum(
            int(np.bincount(pieces[at : at + _PIECE], minlength=256) @ _ONES) for at in range(0, pieces.size, _PIECE)
        )

    def add(self, positions: Tensor) -> int:
        """Set the bits of ascending positions; returns how many were not set."""
        if not positions.numel():
            return 0
        at, bits = positions.numpy(), self.bits.numpy()
        byte, value = at >> 3, (128 >> (at & 7)).astype(np.uint8)
        n_new = int(np.count_nonzero((bits[byte] & value) == 0))
        starts = np.flatnonzero(np.diff(byte, prepend=-1))
        bits[byte[starts]] |= np.bitwise_or.reduceat(value, starts)
        return n_new
