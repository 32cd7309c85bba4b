"""Operations on the tensors of all layers at once: a constant number of launches, whatever the number of layers.

A small layer costs a GPU less time than it takes to launch an operator, so that a network of many layers would wait
for its launches. Devices with grouped kernels (torch's ``_foreach`` functions) take a list of tensors in one launch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rigl_lightning.kernels.masking import INTEGER_OF_SIZE, MasksTogether

_DEVICES = frozenset({"cuda", "xpu"})
_Kind = tuple[torch.device, torch.dtype]


def has_grouped_kernels(tensor: Tensor) -> bool:
    """Whether operators that take lists of tensors are single launches for this one."""
    return tensor.device.type in _DEVICES and type(tensor) in (Tensor, nn.Parameter)


def are_grouped(tensors: Sequence[Tensor]) -> bool:
    """Whether all of them can be taken together, as numbers and as the integers of their bits."""
    return bool(tensors) and all(has_grouped_kernels(t) and t.element_size() in INTEGER_OF_SIZE for t in tensors)


class GroupedMasks:
    """Masks of many tensors, which are held to them together.

    Where there are grouped kernels, the bits of the numbers are multiplied by integers of their size, 0 or 1: exact,
    and zero times an infinite or undefined number is zero, as it is not in floating point. These integers take the room
    of the weights once more. They are changed in place, so that a CUDA graph that reads them sees every mask update.
    On the CPU the fast tier masks all in one call (`MasksTogether`).

    Args:
        masks: Boolean tensor by name, which others change in place.

    >>> masks = GroupedMasks({"weight": torch.tensor([True, False])})
    >>> weight = torch.tensor([1.0, torch.inf])
    >>> masks.zero_inactive_({"weight": weight})
    >>> weight
    tensor([1., 0.])
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = masks
        self._together = MasksTogether(masks)
        self._integers: dict[tuple[str, torch.dtype], tuple[Tensor, int]] = {}

    def zero_inactive_(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors to zero where their masks are False, in place.

        Args:
            tensors: By the names of the masks, each of its mask's shape and device.
        """
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.zero_inactive_(tensors)
            return
        if not are_grouped([*tensors.values()]):
            self._together.zero_inactive_(tensors)
            return
        kinds: dict[_Kind, tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in tensors.items():
            integer = INTEGER_OF_SIZE[tensor.element_size()]
            bits, factors = kinds.setdefault((tensor.device, integer), ([], []))
            bits.append(tensor.detach().view(integer))
            factors.append(self._as_integers(name, integer))
        for bits, factors in kinds.values():
            torch._foreach_mul_(bits, factors)

    def _as_integers(self, name: str, integer: torch.dtype) -> Tensor:
        mask = self._masks[name]
        known = self._integers.get((name, integer))
        if known is not None and known[1] == mask._version:
            return known[0]
        factors = mask.to(integer) if known is None else known[0].copy_(mask)
        self._integers[name, integer] = factors, mask._version
        return factors


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite. The host waits for the answer: once, where there are grouped kernels."""
    tensors = list(tensors)
    if are_grouped(tensors):
        return bool(_finite_flag(tensors))
    # A sum is the fastest reading of all values. It is not finite if one of them is not, or if it overflows.
    return all(math.isfinite(t.sum().item()) or bool(t.isfinite().all()) for t in tensors)


@torch.no_grad()
def average_in_(averages: list[Tensor], tensors: list[Tensor], decay: float) -> None:
    """``m = decay · m + (1 - decay) · x`` for each pair, in place; nothing if any number of any x is not finite.

    Where there are grouped kernels the host does not wait to know.
    """
    if not are_grouped(tensors):
        if all_finite(tensors):
            for average, tensor in zip(averages, tensors, strict=True):
                average.mul_(decay).add_(tensor, alpha=1 - decay)
        return
    is_finite = _finite_flag(tensors)
    values = list(tensors)
    for (_, dtype), places in _by_kind(tensors).items():
        integer = INTEGER_OF_SIZE[dtype.itemsize]
        bits = [tensors[place].detach().view(integer) for place in places]
        for place, kept in zip(places, torch._foreach_mul(bits, is_finite.to(integer)), strict=True):
            values[place] = kept.view(dtype)  # the tensor, or zeros
    torch._foreach_mul_(averages, torch.where(is_finite, decay, 1.0))
    torch._foreach_add_(averages, values, alpha=1 - decay)


def _finite_flag(tensors: Sequence[Tensor]) -> Tensor:
    """A boolean of no dimensions on the device, by a constant number of launches."""
    norms = {
        kind: torch._foreach_norm([tensors[place].detach() for place in places if tensors[place].numel()], torch.inf)
        for kind, places in _by_kind(tensors).items()
    }
    flags = [torch.stack(norm).isfinite().all() for norm in norms.values()]
    return flags[0] if len(flags) == 1 else torch.stack([flag.to(flags[0].device) for flag in flags]).all()


def _by_kind(tensors: Sequence[Tensor]) -> dict[_Kind, list[int]]:
    kinds: dict[_Kind, list[int]] = {}
    for place, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
    return kinds
