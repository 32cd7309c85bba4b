"""Convolutions of the fast tier: 16 images side by side, so that every tap is a shift by whole vectors.

A few images, as in inference, go one by one.

Images (N, C, H, W) become (N / 16, C, phases, H', W', 16), padded; see `conv_geometry` for the phases of a stride.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import lru_cache

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels.compiled.products import Axis as Range
from rigl_lightning.kernels.compiled.products import Matrix, Planes, View, product, sampled_product, transpose
from rigl_lightning.kernels.compiled.values import gather, scatter
from rigl_lightning.kernels.conv_geometry import Axis, Geometry, Window, tables
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.workspace import scratch, zeroed

LANES = 16
_FEW_IMAGES = 8
"""Below as many, the forward pass takes images one by one instead of filling up the lanes."""
_CACHE_FLOATS = 512 * 1024
"""Packed inputs that are in work at once: 2 MiB, a fraction of the last-level cache."""


def geometry(x: Tensor, weight: Tensor, window: Window, lanes: int = LANES) -> Geometry:
    """Geometry of a convolution of images (N, C, H, W), so many side by side."""
    axes = [
        Axis(x.shape[2 + i], weight.shape[2 + i], window.stride[i], window.padding[i], window.dilation[i])
        for i in (0, 1)
    ]
    return Geometry(axes[0], axes[1], x.shape[1], weight.shape[0], lanes)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern) -> Tensor:
    """Convolution of (N, C, H, W) float32, reading active connections only."""
    if x.shape[0] < _FEW_IMAGES:
        return _forward_alone(x, weight, bias, window, pattern)
    g = geometry(x, weight, window)
    t, h, w = tables(g), g.height.outputs, g.width.outputs
    matrix, values = Matrix(pattern.row_parts, t.taps.index_select(0, pattern.columns), 1), gather(weight, pattern)
    line = w * g.lanes
    y_view = View(
        scratch("outputs", min(_step(g), _blocks(x)), g.outputs, h, w, g.lanes), 0, g.outputs * h * line, line, h * line
    )
    result = _empty_like_layout(x, (x.shape[0], g.outputs, h, w))
    for images, out in _batches(g, x, result):
        x_view = View(_pack_inputs(images, g), 0, g.channels * g.phases * g.plane, g.pitch, 0)
        product(matrix, values, x_view, y_view, bias, _blocks(images), h, line)
        _unpack(y_view.tensor, out, _line_offsets(h, line), _line_offsets(w, g.lanes))
    return result


def _forward_alone(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern) -> Tensor:
    """`forward` for a few images, each by itself: the pixels of a whole plane lie side by side.

    Between two lines the outputs at the margins are computed too, and left out.
    """
    g = geometry(x, weight, window, lanes=1)
    h, w = g.height, g.width
    planes = _phases(x, g).contiguous()
    out = torch.empty(x.shape[0], g.outputs, h.outputs, w.plane)
    matrix = Matrix(pattern.row_parts, tables(g).taps.index_select(0, pattern.columns), 1)
    x_view = View(planes, 0, g.channels * g.phases * g.plane, 0, 0)
    y_view = View(out, 0, g.outputs * h.outputs * w.plane, 0, h.outputs * w.plane)
    length = (h.outputs - 1) * w.plane + w.outputs
    product(matrix, gather(weight, pattern), x_view, y_view, bias, x.shape[0], 1, length)
    return _empty_like_layout(x, (x.shape[0], g.outputs, h.outputs, w.outputs)).copy_(out[..., : w.outputs])


def _phases(x: Tensor, g: Geometry) -> Tensor:
    """Images (N, C, H, W), padded and split: (N, C, vertical phase, horizontal phase, height, width)."""
    h, w = g.height, g.width
    rest = [axis.plane * axis.stride - axis.size - axis.padding for axis in (w, h)]
    padded = F.pad(x, (w.padding, rest[0], h.padding, rest[1]))
    split = padded.view(*x.shape[:2], h.plane, h.stride, w.plane, w.stride)
    return split.permute(0, 1, 3, 5, 2, 4)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, window: Window, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images (N, C, H, W), and of the weight: dense, zero at inactive connections."""
    g = geometry(x, weight, window)
    grad_x = torch.empty_like(x)
    gradients = torch.zeros(pattern.n_active)
    transposed = _transposed(pattern, gather(weight, pattern), g) if need_x else None
    matrix = Matrix(pattern.row_parts, tables(g).taps.index_select(0, pattern.columns), 1)
    for grads, images, out in _batches(g, grad, x, grad_x):
        packed = _pack_grad(grads, g)
        if transposed is not None:
            _grad_input(packed, out, transposed, g)
        if need_weight:
            _add_connection_gradients(packed, images, matrix, g, gradients)
    return grad_x if need_x else None, scatter(gradients, weight, pattern) if need_weight else None


def _grad_input(grads: Tensor, out: Tensor, transposed: tuple[Matrix, Tensor], g: Geometry) -> None:
    """Gradient of the images ``out`` from packed gradients of the outputs."""
    t, h, w = tables(g), g.height.real, g.width.real
    line, channels = w * g.lanes, g.channels * g.phases
    packed = scratch("outputs", _blocks(out), g.channels, g.phases * h, w, g.lanes)
    g_view = View(grads, 0, g.outputs * g.grad_plane, g.grad_pitch, 0)
    x_view = View(packed, 0, channels * h * line, line, h * line)
    product(*transposed, g_view, x_view, None, _blocks(out), h, line)
    _unpack(packed, out, t.grad_lines, t.grad_pixels)


def _add_connection_gradients(grads: Tensor, x: Tensor, matrix: Matrix, g: Geometry, out: Tensor) -> None:
    inside = (g.height.margin * g.grad_pitch) + g.width.margin * g.lanes
    x_view = View(_pack_inputs(x, g), 0, g.channels * g.phases * g.plane, g.pitch, 0)
    g_view = View(grads, inside, g.outputs * g.grad_plane, g.grad_pitch, g.grad_plane)
    length = g.width.outputs * g.lanes
    sampled_product(matrix, x_view, g_view, _blocks(x), g.height.outputs, length, g.channels * g.phases, out)


def _step(g: Geometry) -> int:
    """Blocks of images that are packed at once, so that they are still in the cache when they are read."""
    return max(1, _CACHE_FLOATS // max(1, g.channels * g.phases * g.plane))


def _batches(g: Geometry, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    images = _step(g) * g.lanes
    return zip(*(tensor.split(images) for tensor in tensors), strict=True)


def _pack_inputs(x: Tensor, g: Geometry) -> Tensor:
    shape = (g.channels, g.phases, g.height.plane, g.width.plane, g.lanes)
    t = tables(g)
    return _pack(x, _with_margins(("inputs", g), x, g, shape), 0, g.phases * g.plane, t.lines, t.pixels)


def _pack_grad(grad: Tensor, g: Geometry) -> Tensor:
    h, w = g.height, g.width
    shape = (g.outputs, h.outputs + 2 * h.margin, w.outputs + 2 * w.margin, g.lanes)
    packed = _with_margins(("grads", g), grad, g, shape)
    inside = h.margin * g.grad_pitch + w.margin * g.lanes
    lines, pixels = _line_offsets(h.outputs, g.grad_pitch), _line_offsets(w.outputs, g.lanes)
    return _pack(grad, packed, inside, g.grad_plane, lines, pixels)


def _with_margins(name: Hashable, x: Tensor, g: Geometry, shape: tuple[int, ...]) -> Tensor:
    """Memory for `_pack`, zero in the margins and where images are missing in the last block."""
    packed = zeroed(name, _step(g), *shape)[: _blocks(x)]
    if x.shape[0] % g.lanes:
        packed[-1].zero_()
    return packed


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
    n_blocks, lanes = _blocks(x), packed.shape[-1]
    plane = packed[0, 0].numel() if packed.numel() else 0
    target_x = x if x.is_contiguous() else torch.empty(x.shape)
    source = Planes(packed, plane * c, plane, lines)
    target = Planes(target_x, lanes * c * h * w, h * w, _line_offsets(h, w))
    images = Range(_line_offsets(lanes, c * h * w), n)
    transpose(source, Range(pixels, n_blocks * w), target, images, n_blocks, c)
    return x if target_x is x else x.copy_(target_x)


def _transposed(pattern: SparsePattern, values: Tensor, g: Geometry) -> tuple[Matrix, Tensor]:
    """The connections sorted by the channel and phase they feed, with offsets into the gradient; and their values."""
    t = tables(g)
    arrays = [tensor.numpy() for tensor in (pattern.row_starts, pattern.columns, values, t.groups, t.shifts)]
    parts, offsets, ordered = map(torch.from_numpy, _sort_by_group(*arrays, g.channels * g.phases, g.grad_plane))
    return Matrix(parts, offsets, 1), ordered


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


@lru_cache(maxsize=1024)
def _line_offsets(count: int, step: int) -> Tensor:
    return torch.arange(count) * step


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _empty_like_layout(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    layout = torch.channels_last if _channels_last(x) else torch.contiguous_format
    return torch.empty(shape, memory_format=layout)
