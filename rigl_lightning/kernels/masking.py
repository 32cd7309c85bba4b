"""zero_inactive_: holds a tensor to its mask, in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from rigl_lightning.kernels.tiers import has_fast_tier, is_plain

INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 17
_LEAST = 1 << 8
"""Connections below which torch's own operator costs no more than choosing a better one."""


def zero_inactive_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Set a tensor to zero where the mask is False, in place.

    Not a product: zero times an infinite or undefined value would be NaN.

    Args:
        tensor: Any floating type and shape.
        mask: Boolean, same shape and device.

    >>> zero_inactive_(torch.tensor([1.0, torch.inf]), torch.tensor([True, False]))
    tensor([1., 0.])
    """
    if tensor.numel() < _LEAST or not tensor.is_cpu or not _alike_in_memory(tensor, mask):
        return tensor.masked_fill_(~mask, 0)
    if has_fast_tier(tensor):
        _fast()(tensor, mask)
        torch.autograd.graph.increment_version(tensor)
        return tensor
    integer = INTEGER_OF_SIZE.get(tensor.element_size())
    if integer is None:
        return tensor.masked_fill_(~mask, 0)
    # The bits of the numbers are cleared, by pieces that fit a core's cache: three to four times faster than filling.
    all_or_no_bits = torch.empty(min(_CHUNK, tensor.numel()), dtype=integer)
    bits, flags = _in_memory_order(tensor).view(integer), _in_memory_order(mask)
    for piece, active in zip(bits.split(_CHUNK), flags.split(_CHUNK), strict=True):
        piece.bitwise_and_(all_or_no_bits[: active.numel()].copy_(active).neg_())  # -1 has all bits set
    return tensor


def _alike_in_memory(tensor: Tensor, mask: Tensor) -> bool:
    if mask.shape != tensor.shape or mask.dtype != torch.bool or tensor.is_neg():
        return False
    if not is_plain(mask) or not is_plain(tensor):
        return False
    if tensor.is_contiguous() and mask.is_contiguous():
        return True
    last = torch.channels_last
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=last) and mask.is_contiguous(memory_format=last)


def _in_memory_order(tensor: Tensor) -> Tensor:
    return tensor.detach().as_strided((tensor.numel(),), (1,))


@cache
def _fast() -> Callable[[Tensor, Tensor], None]:
    from rigl_lightning.kernels.compiled.masking import zero_inactive

    return zero_inactive
