"""Convolutions of the fast tier: 16 images side by side (`conv_lanes`), and those left over by planes (`conv_planes`).

A few images do not fill the 16 lanes: by planes they take their own memory and time, not those of sixteen.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled import conv_lanes, conv_planes
from rigl_lightning.kernels.compiled.values import gather, scatter
from rigl_lightning.kernels.conv_geometry import Geometry, Window, geometry
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import readable, resolved
from rigl_lightning.kernels.workspace import new, new_zeros

_FEW_IMAGES = 8
"""So many lanes are filled up with zeros rather than left to `conv_planes`."""


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern) -> Tensor:
    """Convolution of (N, C, H, W), reading active connections only; contiguous, since images are written by planes.

    Images, and gradients in `backward`, may be bfloat16; what is returned for them is of the dtype of ``x``.
    """
    values, x = gather(weight, pattern), resolved(x)
    bias = readable(bias) if bias is not None else None
    g = geometry(x.shape, weight.shape, window)
    result = new(x.shape[0], g.outputs, g.height.outputs, g.width.outputs, dtype=x.dtype)
    for share in _shares(x.shape, weight.shape, window):
        share.by.forward(share.of(x), share.of(result), values, bias, share.geometry, pattern)
    return result


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, window: Window, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images (N, C, H, W), and of the weight: dense, zero at inactive connections."""
    grad, x, values = resolved(grad), resolved(x), gather(weight, pattern)
    grad_x = torch.empty_like(x) if need_x else None
    gradients = new_zeros(pattern.n_active) if need_weight else None
    for share in _shares(x.shape, weight.shape, window):
        own = share.of(grad_x) if grad_x is not None else None
        share.by.backward(share.of(grad), share.of(x), own, gradients, values, share.geometry, pattern)
    return grad_x, scatter(gradients, weight, pattern) if gradients is not None else None


class _Share(NamedTuple):
    """Images ``[start, stop)``, the module that computes them, and their geometry."""

    by: ModuleType
    start: int
    stop: int
    geometry: Geometry

    def of(self, images: Tensor) -> Tensor:
        return images[self.start : self.stop]


def _shares(images: torch.Size, weight: torch.Size, window: Window) -> Iterator[_Share]:
    n, left = images[0], images[0] % conv_lanes.LANES
    alone = left if left < _FEW_IMAGES else 0
    if n > alone:
        yield _Share(conv_lanes, 0, n - alone, geometry(images, weight, window, conv_lanes.LANES))
    if alone:
        yield _Share(conv_planes, n - alone, n, geometry(images, weight, window))
