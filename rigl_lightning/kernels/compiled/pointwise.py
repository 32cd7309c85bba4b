"""1x1 convolutions of the fast tier: an image is already a block, channels by pixels; small ones share a block."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled import linear as compiled_linear
from rigl_lightning.kernels.compiled.blocks import by_column, by_row, multiply, view
from rigl_lightning.kernels.compiled.products import sampled_product
from rigl_lightning.kernels.compiled.values import gather, ordered_by_column, scatter
from rigl_lightning.kernels.conv_geometry import channels_last
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import resolved
from rigl_lightning.kernels.workspace import new, scratch

_FEW_PIXELS = 64
"""Images below this size are put side by side: a block of few pixels leaves most of a tile's registers empty."""


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern) -> Tensor:
    """1x1 convolution of (N, C, H, W) with stride 1, in the memory format of the images.

    Images, and gradients in `backward`, may be bfloat16; what is returned for them is of the dtype of ``x``.
    """
    x = resolved(x)
    if channels_last(x):
        return _images(compiled_linear.forward(_rows(x), weight, bias, pattern), x)
    blocks = _blocks(x, "inputs")
    out = multiply(blocks, gather(weight, pattern), by_row(pattern, blocks), bias, _outputs(x, weight.shape[0]))
    return _from_blocks(out, x)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images, and of the weight: dense, zero at inactive connections."""
    grad, x = resolved(grad), resolved(x)
    if channels_last(x):
        rows = compiled_linear.backward(_rows(grad), _rows(x), weight, pattern, need_x, need_weight)
        return _images(rows[0], x) if rows[0] is not None else None, rows[1]
    blocks = _blocks(grad, "grads")
    grad_x = grad_weight = None
    if need_x:
        values = ordered_by_column(gather(weight, pattern), pattern)
        grad_x = multiply(blocks, values, by_column(pattern, blocks), None, _outputs(x, weight.shape[1]))
        grad_x = _from_blocks(grad_x, x)
    if need_weight:
        inputs = _blocks(x, "inputs")
        n, channels, length = inputs.shape
        matrix = by_row(pattern, inputs)
        gradients = sampled_product(matrix, view(inputs), view(blocks), 1, n, length, channels)
        grad_weight = scatter(gradients, weight, pattern)
    return grad_x, grad_weight


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    return rows.view(n, h, w, rows.shape[1]).permute(0, 3, 1, 2)


def _are_small(x: Tensor) -> bool:
    return x.shape[0] > 1 and 0 < x.shape[2] * x.shape[3] < _FEW_PIXELS


def _blocks(x: Tensor, name: str) -> Tensor:
    """Images (N, C, H, W) as blocks (N, C, H * W), or small ones as a single block (1, C, N * H * W), in float32."""
    images = x.contiguous().flatten(2)
    if not _are_small(x):
        return images if x.dtype == torch.float32 else scratch(name, *images.shape).copy_(images)
    n, channels, length = images.shape
    joined = scratch(name, 1, channels, n * length)
    joined.view(channels, n, length).copy_(images.transpose(0, 1))
    return joined


def _outputs(x: Tensor, channels: int) -> Tensor | None:
    """Where the result for `_blocks` is put: memory of its own if it is the result for the images too."""
    pixels = x.shape[2] * x.shape[3]
    if _are_small(x):
        return scratch("outputs", 1, channels, x.shape[0] * pixels)
    return None if x.dtype == torch.float32 else scratch("outputs", x.shape[0], channels, pixels)


def _from_blocks(blocks: Tensor, x: Tensor) -> Tensor:
    """Inverse of `_blocks`, for images of the size of ``x`` and any number of channels."""
    n, _, height, width = x.shape
    channels = blocks.shape[1]
    if not _are_small(x):
        return blocks.view(n, channels, height, width).to(x.dtype)
    images = blocks.view(channels, n, height, width).transpose(0, 1)
    return new(*images.shape, dtype=x.dtype).copy_(images)
