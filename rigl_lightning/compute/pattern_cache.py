"""Patterns of masks, built again only when a mask has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels import SparsePattern


class _Kept(NamedTuple):
    mask: Tensor
    version: int
    pattern: SparsePattern
    seconds: float


class PatternCache:
    """Patterns by layer name.

    Torch counts the changes of a tensor, which tells without reading the mask whether its pattern still holds. A
    pattern is never altered: a step that has begun with one ends with it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._full: dict[tuple[int, ...], SparsePattern] = {}

    def of(self, name: str, masks: Mapping[str, Tensor]) -> SparsePattern:
        """Pattern of ``masks[name]`` as it is now."""
        return self._entry(name, masks[name]).pattern

    def forget(self, name: str) -> None:
        """Let go of a layer's pattern and mask."""
        self._kept.pop(name, None)

    def seconds(self, name: str, masks: Mapping[str, Tensor]) -> float:
        """What it took to build it."""
        return self._entry(name, masks[name]).seconds

    def full(self, shape: torch.Size) -> SparsePattern:
        """Pattern of a weight of which every connection is active."""
        if tuple(shape) not in self._full:
            self._full[tuple(shape)] = SparsePattern.from_mask(torch.ones(shape, dtype=torch.bool))
        return self._full[tuple(shape)]

    def _entry(self, name: str, mask: Tensor) -> _Kept:
        kept = self._kept.get(name)
        if kept is None or kept.mask is not mask or kept.version != mask._version:
            start = time.perf_counter()
            pattern = SparsePattern.from_mask(mask)
            kept = self._kept[name] = _Kept(mask, mask._version, pattern, time.perf_counter() - start)
        return kept
