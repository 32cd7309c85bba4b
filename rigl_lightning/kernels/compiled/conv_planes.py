"""Convolutions of a few images, each by itself: the pixels of a whole padded plane lie side by side.

Between two lines, outputs at the margins are computed too, and left out. See `conv_geometry` for a stride's phases.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels.compiled.conv_transposed import transposed
from rigl_lightning.kernels.compiled.products import Matrix, View, product, sampled_product
from rigl_lightning.kernels.conv_geometry import Geometry, tables
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.workspace import scratch


def forward(x: Tensor, out: Tensor, values: Tensor, bias: Tensor | None, g: Geometry, pattern: SparsePattern) -> None:
    """Write the convolution of images (N, C, H, W) to ``out``; ``values`` are the weight's, by row."""
    h, w, n = g.height, g.width, x.shape[0]
    wide = scratch("outputs", n, g.outputs, h.outputs, w.plane)
    y_view = View(wide, 0, g.outputs * h.outputs * w.plane, 0, h.outputs * w.plane)
    x_view = View(_phases(x, g), 0, g.channels * g.phases * g.plane, 0, 0)
    product(_matrix(pattern, g), values, x_view, y_view, bias, n, 1, _length(g))
    out.copy_(wide[..., : w.outputs])


def backward(
    grad: Tensor,
    x: Tensor,
    grad_x: Tensor | None,
    gradients: Tensor | None,
    values: Tensor,
    g: Geometry,
    pattern: SparsePattern,
) -> None:
    """Write the gradient of the images to ``grad_x``, and add those of the connections to ``gradients``."""
    if grad_x is not None:
        _grad_input(grad, grad_x, transposed(pattern, values, g), g)
    if gradients is not None:
        gradients += _connection_gradients(grad, x, _matrix(pattern, g), g)


def _grad_input(grad: Tensor, out: Tensor, matrix: tuple[Matrix, Tensor], g: Geometry) -> None:
    h, w, n = g.height, g.width, grad.shape[0]
    padded = F.pad(grad.float(), (w.margin, w.margin, h.margin, h.margin)).contiguous()
    rows, row = g.channels * g.phases, h.real * g.grad_pitch
    wide = scratch("outputs", n, rows, h.real, g.grad_pitch)
    g_view, x_view = View(padded, 0, g.outputs * g.grad_plane, 0, 0), View(wide, 0, rows * row, 0, row)
    product(*matrix, g_view, x_view, None, n, 1, (h.real - 1) * g.grad_pitch + w.real)
    split = wide[..., : w.real].unflatten(1, (g.channels, h.stride, w.stride))
    images = split.permute(0, 1, 4, 2, 5, 3).reshape(n, g.channels, h.real * h.stride, w.real * w.stride)
    top, left = h.padding % h.stride, w.padding % w.stride
    out.copy_(images[:, :, top : top + h.size, left : left + w.size])


def _connection_gradients(grad: Tensor, x: Tensor, matrix: Matrix, g: Geometry) -> Tensor:
    h, w, n = g.height, g.width, x.shape[0]
    grads = F.pad(grad.float(), (0, w.plane - w.outputs)).contiguous()
    row, channels = h.outputs * w.plane, g.channels * g.phases
    x_view = View(_phases(x, g), 0, channels * g.plane, g.pitch, 0)
    g_view = View(grads, 0, g.outputs * row, w.plane, row)
    found = sampled_product(matrix, x_view, g_view, n, 1, _length(g), channels)
    # Pixels between two lines meet a gradient of zero, which gives zero unless they are infinite or undefined.
    if not found.isfinite().all():
        found = sampled_product(matrix, x_view, g_view, n, h.outputs, w.outputs, channels)
    return found


def _matrix(pattern: SparsePattern, g: Geometry) -> Matrix:
    return Matrix.of(pattern.row_parts, tables(g).taps.index_select(0, pattern.columns), 1)


def _length(g: Geometry) -> int:
    """Positions from the first output to the last."""
    return (g.height.outputs - 1) * g.width.plane + g.width.outputs


def _phases(x: Tensor, g: Geometry) -> Tensor:
    """Images (N, C, H, W), padded and split: (N, C, vertical phase, horizontal phase, height, width)."""
    h, w = g.height, g.width
    rest = [axis.plane * axis.stride - axis.size - axis.padding for axis in (w, h)]
    padded = F.pad(x.float(), (w.padding, rest[0], h.padding, rest[1]))
    split = padded.view(*x.shape[:2], h.plane, h.stride, w.plane, w.stride)
    return split.permute(0, 1, 3, 5, 2, 4).contiguous()
