"""Convolutions of the fast tier: 16 images side by side, so that every tap is a shift by whole vectors.

Images (N, C, H, W) become (N / 16, C, phases, H', W', 16), padded; see `conv_geometry` for the phases of a stride.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from rigl_lightning.kernels.conv_geometry import Axis, Geometry, Window, tables
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.vector_products import Axis as Range
from rigl_lightning.kernels.vector_products import Matrix, Planes, View, product, sampled_product, transpose
from rigl_lightning.kernels.vector_values import gather, scatter
from rigl_lightning.kernels.workspace import scratch

LANES = 16


def geometry(x: Tensor, weight: Tensor, window: Window) -> Geometry:
    """Geometry of a convolution of images (N, C, H, W)."""
    axes = [
        Axis(x.shape[2 + i], weight.shape[2 + i], window.stride[i], window.padding[i], window.dilation[i])
        for i in (0, 1)
    ]
    return Geometry(axes[0], axes[1], x.shape[1], weight.shape[0], LANES)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern) -> Tensor:
    """Convolution of (N, C, H, W) float32, reading active connections only."""
    g = geometry(x, weight, window)
    t, h, w = tables(g), g.height.outputs, g.width.outputs
    n_blocks = _blocks(x)
    inputs = _pack_inputs(x, g)
    out = scratch("outputs", n_blocks, g.outputs, h, w, g.lanes)
    matrix = Matrix(pattern.row_parts, t.taps.index_select(0, pattern.columns), 1)
    line = w * g.lanes
    x_view = View(inputs, 0, g.channels * g.phases * g.plane, g.pitch, 0)
    y_view = View(out, 0, g.outputs * h * line, line, h * line)
    product(matrix, gather(weight, pattern), x_view, y_view, bias, n_blocks, h, line)
    result = _empty_like_layout(x, (x.shape[0], g.outputs, h, w))
    return _unpack(out, result, _line_offsets(h, line), _line_offsets(w, g.lanes))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, window: Window, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images (N, C, H, W), and of the weight: dense, zero at inactive connections."""
    g = geometry(x, weight, window)
    grads = _pack_grad(grad, g)
    grad_x = _grad_input(grads, x, weight, g, pattern) if need_x else None
    grad_weight = scatter(_connection_gradients(grads, x, g, pattern), weight, pattern) if need_weight else None
    return grad_x, grad_weight


def _grad_input(grads: Tensor, x: Tensor, weight: Tensor, g: Geometry, pattern: SparsePattern) -> Tensor:
    t, h, w = tables(g), g.height.real, g.width.real
    n_blocks, line, channels = _blocks(x), w * g.lanes, g.channels * g.phases
    parts, offsets, values = _transposed(pattern, gather(weight, pattern), t.groups, t.shifts, channels, g.grad_plane)
    out = scratch("outputs", n_blocks, channels, h, w, g.lanes)
    g_view = View(grads, 0, g.outputs * g.grad_plane, g.grad_pitch, 0)
    x_view = View(out, 0, channels * h * line, line, h * line)
    product(Matrix(parts, offsets, 1), values, g_view, x_view, None, n_blocks, h, line)
    out = out.view(n_blocks, g.channels, g.phases * h, w, g.lanes)
    return _unpack(out, torch.empty_like(x), t.grad_lines, t.grad_pixels)


def _connection_gradients(grads: Tensor, x: Tensor, g: Geometry, pattern: SparsePattern) -> Tensor:
    matrix = Matrix(pattern.row_parts, tables(g).taps.index_select(0, pattern.columns), 1)
    inside = (g.height.margin * g.grad_pitch) + g.width.margin * g.lanes
    x_view = View(_pack_inputs(x, g), 0, g.channels * g.phases * g.plane, g.pitch, 0)
    g_view = View(grads, inside, g.outputs * g.grad_plane, g.grad_pitch, g.grad_plane)
    length = g.width.outputs * g.lanes
    return sampled_product(matrix, x_view, g_view, _blocks(x), g.height.outputs, length, g.channels * g.phases)


def _pack_inputs(x: Tensor, g: Geometry) -> Tensor:
    packed = scratch("inputs", _blocks(x), g.channels, g.phases, g.height.plane, g.width.plane, g.lanes)
    _clear_around(packed, x, g.height.padding, g.width.padding, g.phases > 1)
    t = tables(g)
    return _pack(x, packed, 0, g.phases * g.plane, t.lines, t.pixels)


def _pack_grad(grad: Tensor, g: Geometry) -> Tensor:
    h, w = g.height, g.width
    packed = scratch("grads", _blocks(grad), g.outputs, h.outputs + 2 * h.margin, w.outputs + 2 * w.margin, g.lanes)
    _clear_around(packed, grad, h.margin, w.margin, False)
    inside = h.margin * g.grad_pitch + w.margin * g.lanes
    lines, pixels = _line_offsets(h.outputs, g.grad_pitch), _line_offsets(w.outputs, g.lanes)
    return _pack(grad, packed, inside, g.grad_plane, lines, pixels)


def _clear_around(packed: Tensor, x: Tensor, high: int, wide: int, everywhere: bool) -> None:
    """Zero what `_pack` leaves out: margins of ``high`` lines and ``wide`` pixels, and missing images."""
    if everywhere or x.shape[0] % packed.shape[-1]:
        packed.zero_()
        return
    if high:
        packed[..., :high, :, :] = 0
        packed[..., -high:, :, :] = 0
    if wide:
        packed[..., :wide, :] = 0
        packed[..., -wide:, :] = 0


def _pack(x: Tensor, packed: Tensor, start: int, plane: int, lines: Tensor, pixels: Tensor) -> Tensor:
    """Copy images (N, C, H, W), of either memory format, into blocks of images side by side."""
    n, c, h, w = x.shape
    block, lanes = plane * c, packed.shape[-1]
    lines = lines + start
    if _channels_last(x):
        source = Planes(x, lanes * c * h * w, w * c, _line_offsets(w, c))
        # Planes are lines of the image here, lines its pixels, and the columns are channels.
        for line in range(h):
            row = Planes(x[:, :, line], lanes * c * h * w, 0, source.lines)
            target = Planes(packed, block, 0, pixels + lines[line])
            images = Range(_line_offsets(lanes, c * h * w), n)
            transpose(row, images, target, Range(_line_offsets(c, plane), packed.shape[0] * c), packed.shape[0], 1)
        return packed
    x = x.contiguous()
    source = Planes(x, lanes * c * h * w, h * w, _line_offsets(h, w))
    target = Planes(packed, block, plane, lines)
    images = Range(_line_offsets(lanes, c * h * w), n)
    transpose(source, images, target, Range(pixels, packed.shape[0] * w), packed.shape[0], c)
    return packed


def _unpack(packed: Tensor, x: Tensor, lines: Tensor, pixels: Tensor) -> Tensor:
    """Inverse of `_pack`, into images (N, C, H, W)."""
    n, c, h, w = x.shape
    n_blocks, lanes = packed.shape[0], packed.shape[-1]
    plane = packed[0, 0].numel() if packed.numel() else 0
    target_x = x if x.is_contiguous() else torch.empty(x.shape)
    source = Planes(packed, plane * c, plane, lines)
    target = Planes(target_x, lanes * c * h * w, h * w, _line_offsets(h, w))
    images = Range(_line_offsets(lanes, c * h * w), n)
    transpose(source, Range(pixels, n_blocks * w), target, images, n_blocks, c)
    return x if target_x is x else x.copy_(target_x)


def _transposed(
    pattern: SparsePattern, values: Tensor, groups: Tensor, shifts: Tensor, n_groups: int, plane: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The connections sorted by the group they feed: parts, offsets into the gradient, and values."""
    arrays = [pattern.row_starts, pattern.columns, values, groups, shifts]
    out = _sort_by_group(*(a.numpy() for a in arrays), n_groups, plane)
    parts, offsets, sorted_values = (torch.from_numpy(a) for a in out)
    return parts, offsets, sorted_values


@njit(nogil=True, cache=True)
def _sort_by_group(starts, columns, values, groups, shifts, n_groups, plane):  # type: ignore[no-untyped-def]
    """Counting sort; within a group the order by row stays."""
    parts = np.zeros((2, n_groups), np.int32)
    for column in columns:
        parts[1, groups[column]] += 1
    total = 0
    for group in range(n_groups):
        parts[0, group] = total
        total += parts[1, group]
        parts[1, group] = parts[0, group]
    offsets, ordered = np.empty(columns.size, np.int32), np.empty(columns.size, np.float32)
    for row in range(starts.size - 1):
        for k in range(starts[row], starts[row + 1]):
            column = columns[k]
            place = parts[1, groups[column]]
            parts[1, groups[column]] = place + 1
            offsets[place] = row * plane + shifts[column]
            ordered[place] = values[k]
    return parts, offsets, ordered


def _blocks(x: Tensor) -> int:
    return -(-x.shape[0] // LANES)


def _line_offsets(count: int, step: int) -> Tensor:
    return torch.arange(count) * step


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _empty_like_layout(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    layout = torch.channels_last if _channels_last(x) else torch.contiguous_format
    return torch.empty(shape, memory_format=layout)
