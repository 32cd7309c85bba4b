"""Convolutions of 16 images side by side, so that every tap is a shift by whole vectors.

Images (N, C, H, W) become (N / 16, C, phases, H', W', 16), padded; see `conv_geometry` for the phases of a stride.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from torch import Tensor

from rigl_lightning.kernels.compiled.blocks import steps
from rigl_lightning.kernels.compiled.conv_transposed import transposed
from rigl_lightning.kernels.compiled.products import Matrix, View, product, sampled_product
from rigl_lightning.kernels.compiled.transposition import Axis, Planes, transpose
from rigl_lightning.kernels.conv_geometry import Geometry, channels_last, tables
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.workspace import new, scratch, zeroed

LANES = 16
_CACHE_FLOATS = 512 * 1024
"""Packed inputs that are in work at once: 2 MiB, a fraction of the last-level cache."""


def forward(x: Tensor, out: Tensor, values: Tensor, bias: Tensor | None, g: Geometry, pattern: SparsePattern) -> None:
    """Write the convolution of images (N, C, H, W) to ``out``; ``values`` are the weight's, by row."""
    h, w = g.height.outputs, g.width.outputs
    matrix, line = _matrix(pattern, g), w * g.lanes
    wide = scratch("outputs", min(_step(g), _blocks(x)), g.outputs, h, w, g.lanes)
    y_view = View(wide, 0, g.outputs * h * line, line, h * line)
    for images, outs in _batches(g, x, out):
        x_view = View(_pack_inputs(images, g), 0, g.channels * g.phases * g.plane, g.pitch, 0)
        product(matrix, values, x_view, y_view, bias, _blocks(images), h, line)
        _unpack(wide, outs, steps(h, line), steps(w, g.lanes))


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
    sparse = transposed(pattern, values, g) if grad_x is not None else None
    matrix = _matrix(pattern, g)
    for grads, images, out in _batches(g, grad, x, x if grad_x is None else grad_x):
        packed = _pack_grad(grads, g)
        if sparse is not None:
            _grad_input(packed, out, sparse, g)
        if gradients is not None:
            _add_connection_gradients(packed, images, matrix, g, gradients)


def _matrix(pattern: SparsePattern, g: Geometry) -> Matrix:
    return Matrix.of(pattern.row_parts, tables(g).taps.index_select(0, pattern.columns), g.lanes)


def _grad_input(grads: Tensor, out: Tensor, sparse: tuple[Matrix, Tensor], g: Geometry) -> None:
    """Gradient of the images ``out`` from packed gradients of the outputs."""
    t, h, w = tables(g), g.height.real, g.width.real
    line, channels = w * g.lanes, g.channels * g.phases
    packed = scratch("outputs", _blocks(out), g.channels, g.phases * h, w, g.lanes)
    g_view = View(grads, 0, g.outputs * g.grad_plane, g.grad_pitch, 0)
    x_view = View(packed, 0, channels * h * line, line, h * line)
    product(*sparse, g_view, x_view, None, _blocks(out), h, line)
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
    return _pack(grad, packed, inside, g.grad_plane, steps(h.outputs, g.grad_pitch), steps(w.outputs, g.lanes))


def _with_margins(name: Hashable, x: Tensor, g: Geometry, shape: tuple[int, ...]) -> Tensor:
    """Memory for `_pack`, zero in the margins and where images are missing in the last block."""
    packed = zeroed(name, _step(g), *shape)[: _blocks(x)]
    if x.shape[0] % g.lanes:
        packed[-1].zero_()
    return packed


def _pack(x: Tensor, packed: Tensor, start: int, plane: int, lines: Tensor, pixels: Tensor) -> Tensor:
    """Copy images (N, C, H, W), of either memory format, into blocks of images side by side."""
    n, c, h, w = x.shape
    block, lanes, n_blocks = plane * c, packed.shape[-1], packed.shape[0]
    images = Axis(steps(lanes, c * h * w), n)
    if channels_last(x):
        # Planes are lines of the image here, lines its pixels, and the columns are channels.
        columns, of_line = Axis(steps(c, plane), n_blocks * c), steps(w, c)
        for line, offset in enumerate(lines.tolist()):
            source = Planes(x, lanes * c * h * w, 0, of_line, line * w * c)
            transpose(source, images, Planes(packed, block, 0, pixels, start + offset), columns, n_blocks, 1)
        return packed
    source = Planes(x.contiguous(), lanes * c * h * w, h * w, steps(h, w))
    target = Planes(packed, block, plane, lines, start)
    transpose(source, images, target, Axis(pixels, n_blocks * w), n_blocks, c)
    return packed


def _unpack(packed: Tensor, x: Tensor, lines: Tensor, pixels: Tensor) -> Tensor:
    """Inverse of `_pack`, into images (N, C, H, W)."""
    n, c, h, w = x.shape
    n_blocks, lanes = _blocks(x), packed.shape[-1]
    plane = packed[0, 0].numel() if packed.numel() else 0
    target_x = x if x.is_contiguous() else new(*x.shape, dtype=x.dtype)
    source = Planes(packed, plane * c, plane, lines)
    target = Planes(target_x, lanes * c * h * w, h * w, steps(h, w))
    transpose(source, Axis(pixels, n_blocks * w), target, Axis(steps(lanes, c * h * w), n), n_blocks, c)
    return x if target_x is x else x.copy_(target_x)


def _blocks(x: Tensor) -> int:
    return -(-x.shape[0] // LANES)
