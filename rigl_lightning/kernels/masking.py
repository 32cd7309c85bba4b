"""zero_inactive_: holds a tensor to its mask, in place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rigl_lightning.kernels.tiers import has_fast_tier, is_fast_tier_on, is_plain, no_transform_is_active

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
        _compiled().zero_inactive(tensor, mask)
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


class MasksTogether:
    """Masks of many tensors on the CPU, which the fast tier holds to them in one call.

    Asking each tensor whether the fast tier can read it costs more than masking a small layer, so what is known of the
    masks is kept.

    Args:
        masks: Boolean tensor by name, which others change in place.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = masks
        self._known: dict[str, _Known] = {}
        self._blocks: tuple[list[str], Any] = [], None

    def zero_inactive_(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors to zero where their masks are False, in place."""
        is_possible = is_fast_tier_on() and no_transform_is_active()
        together = {name: t for name, t in tensors.items() if self._takes(name, t)} if is_possible else {}
        if len(together) < len(tensors):
            for name, tensor in tensors.items():
                if name not in together:
                    zero_inactive_(tensor, self._masks[name])
        if not together:
            return
        names, changed = [*together], [*together.values()]
        before, blocks = self._blocks
        if names != before:
            blocks = _compiled().MaskedBlocks([self._known[name].mask for name in names])
            self._blocks = names, blocks
        blocks.zero_inactive(changed)
        torch.autograd.graph.increment_version(changed)

    def _takes(self, name: str, tensor: Tensor) -> bool:
        mask, known = self._masks[name], self._known.get(name)
        if known is None or known.mask is not mask:
            known = self._known[name] = _Known.of(mask)
            self._blocks = [], None
        return (
            known.is_plain
            and tensor.dtype is torch.float32
            and tensor.shape == known.shape
            and tensor.is_cpu
            and type(tensor) in (Tensor, nn.Parameter)
            and tensor.layout is torch.strided
            and not tensor.is_neg()
            and not torch._C._functorch.is_legacy_batchedtensor(tensor)
            and (
                (known.is_contiguous and tensor.is_contiguous())
                or (known.is_channels_last and tensor.is_contiguous(memory_format=torch.channels_last))
            )
        )


class _Known(NamedTuple):
    """What is known of a mask that only changes in place."""

    mask: Tensor
    shape: torch.Size
    is_plain: bool
    is_contiguous: bool
    is_channels_last: bool

    @staticmethod
    def of(mask: Tensor) -> _Known:
        plain = is_plain(mask) and mask.dtype == torch.bool and mask.numel() > 0
        last = mask.ndim == 4 and mask.is_contiguous(memory_format=torch.channels_last)
        return _Known(mask, mask.shape, plain, mask.is_contiguous(), last)


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
def _compiled() -> Any:
    from rigl_lightning.kernels.compiled import masking

    return masking
