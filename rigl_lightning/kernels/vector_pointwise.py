"""1x1 convolutions of the fast tier: an image is already a block, channels by pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels import vector_linear
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.vector_linear import by_column, by_row, multiply, view
from rigl_lightning.kernels.vector_products import sampled_product
from rigl_lightning.kernels.vector_values import gather, ordered_by_column, scatter


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern) -> Tensor:
    """1x1 convolution of (N, C, H, W) float32 with stride 1, in the memory format of the images."""
    if channels_last(x):
        return _images(vector_linear.forward(_rows(x), weight, bias, pattern), x)
    blocks = x.contiguous().flatten(2)
    out = multiply(blocks, gather(weight, pattern), by_row(pattern, blocks), bias)
    return out.view(x.shape[0], weight.shape[0], *x.shape[2:])


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images, and of the weight: dense, zero at inactive connections."""
    if channels_last(x):
        rows = vector_linear.backward(_rows(grad), _rows(x), weight, pattern, need_x, need_weight)
        return _images(rows[0], x) if rows[0] is not None else None, rows[1]
    blocks, inputs = grad.contiguous().flatten(2), x.contiguous().flatten(2)
    grad_x = grad_weight = None
    if need_x:
        values = ordered_by_column(gather(weight, pattern), pattern)
        grad_x = multiply(blocks, values, by_column(pattern, blocks), None).view(x.shape)
    if need_weight:
        n, channels, length = inputs.shape
        matrix = by_row(pattern, inputs)
        gradients = sampled_product(matrix, view(inputs), view(blocks), 1, n, length, channels)
        grad_weight = scatter(gradients, weight, pattern)
    return grad_x, grad_weight


def channels_last(x: Tensor) -> bool:
    """Whether channels, rather than pixels, lie side by side."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    return rows.view(n, h, w, rows.shape[1]).permute(0, 3, 1, 2)
