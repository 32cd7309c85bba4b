"""Layers of the fast tier for inference, as plans: bias, addend and bounds are part of the product."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.ir import WIDTH
from rigl_lightning.kernels.compiled.jobs import transpose_job
from rigl_lightning.kernels.compiled.linear import _partition, _steps
from rigl_lightning.kernels.conv_geometry import Axis, Geometry, Window, tables
from rigl_lightning.kernels.inference.jobs import MOST, crop_job, fused_job, grouped_job, pad_job, single_job
from rigl_lightning.kernels.inference.plans import ADDEND, INPUT, OUTPUT, Place, Plan, Setting, Step
from rigl_lightning.kernels.workspace import scratch, zeroed

_CACHE_FLOATS = 512 * 1024
"""Padded images that are in work at once: 2 MiB, a fraction of the last-level cache."""


class Product(NamedTuple):
    """A sparse matrix and what is done to its products.

    Attributes:
        values: (n_active,) float32, by row.
        columns: (n_active,) int32; those of a convolution are counted within its group.
        parts: (parts + 1, rows) int32, see `SparsePattern.row_parts`.
        row_starts: (rows + 1,) int32.
        bias: (rows,) float32, or None.
        low: Lower bound of the outputs: 0 for ReLU, minus infinity for none.
        high: Upper bound.
    """

    values: Tensor
    columns: Tensor
    parts: Tensor
    row_starts: Tensor
    bias: Tensor | None
    low: float = -math.inf
    high: float = math.inf

    @property
    def bounds(self) -> int:
        """Both bounds as the jobs read them."""
        return int(struct.unpack("q", struct.pack("ff", self.low, self.high))[0])

    @property
    def n_rows(self) -> int:
        """Outputs of the layer."""
        return self.parts.shape[1]


def plan_linear(samples: int, inputs: int, p: Product) -> Plan:
    """(samples, inputs) to (samples, outputs), none of which is 0."""
    shape = (samples, p.n_rows)
    if samples == 1:
        # One task for each thread's share of the connections is enough: no memory is written twice.
        settings: list[Setting] = [
            Place(INPUT),
            p.row_starts,
            p.columns,
            p.values,
            p.bias,
            Place(OUTPUT),
            p.n_rows,
            p.bounds,
        ]
        threads = torch.get_num_threads()
        return Plan(shape, [Step(single_job, min(p.n_rows, 4 * threads if threads > 1 else 1), settings)])
    n_blocks, length = _partition(samples)
    x, y = zeroed(("samples", n_blocks), n_blocks, inputs, length), scratch("outputs", n_blocks, p.n_rows, length)
    product = _product(x, y, p, p.columns, length, None, n_blocks, inputs * length, p.n_rows * length, length, length)
    one = _steps(1, 0)
    pack: list[Setting] = [Place(INPUT), length * inputs, 0, one, x, inputs * length, 0, one, 1, 1]
    pack += [_steps(length, inputs), length, samples, _steps(inputs, length), inputs, n_blocks * inputs]
    unpack: list[Setting] = [y, p.n_rows * length, 0, one, Place(OUTPUT), length * p.n_rows, 0, one, 1, 1]
    unpack += [_steps(p.n_rows, length), p.n_rows, n_blocks * p.n_rows, _steps(length, p.n_rows), length, samples]
    return Plan(shape, [Step(transpose_job, n_blocks, pack), product, Step(transpose_job, n_blocks, unpack)])


def plan_conv2d(
    shape: tuple[int, int, int, int],
    p: Product,
    kernel: tuple[int, int],
    window: Window,
    groups: int,
    with_addend: bool,
) -> Plan:
    """Convolution of contiguous images of one shape (N, C, H, W), none of which is 0.

    Raises:
        ValueError: If the kernel is larger than the padded image.
    """
    axes = [Axis(shape[2 + i], kernel[i], window.stride[i], window.padding[i], window.dilation[i]) for i in range(2)]
    for axis in axes:
        if axis.outputs < 1:
            reach, size = axis.dilation * (axis.kernel - 1) + 1, axis.size + 2 * axis.padding
            raise ValueError(f"Expected a padded image of at least {reach} pixels, got {size}.")
    g = Geometry(axes[0], axes[1], shape[1] // groups, p.n_rows // groups, lanes=1)
    out = (shape[0], p.n_rows, g.height.outputs, g.width.outputs)
    whole = kernel == (1, 1) and (window.stride, window.padding) == ((1, 1), (0, 0)) and groups == 1
    if whole and shape[2] * shape[3] >= WIDTH:
        length = shape[2] * shape[3]
        step = _product(
            Place(INPUT), Place(OUTPUT), p, p.columns, length, Place(ADDEND),
            shape[0], shape[1] * length, p.n_rows * length, length, length,
        )  # fmt: skip
        return Plan(out, [step])
    if groups > 1:
        return Plan(out, [_grouped(shape, p, g, groups)])
    return Plan(out, _convolution(shape, p, g, with_addend))


def _convolution(shape: tuple[int, int, int, int], p: Product, g: Geometry, with_addend: bool) -> list[Step]:
    """The pixels of a whole padded plane lie side by side.

    Between two lines, outputs at the margins are computed too, and left out.
    """
    t, h, w = tables(g), g.height, g.width
    offsets = t.taps.index_select(0, p.columns)
    floats, n_out = g.channels * g.phases * g.plane, h.outputs * w.outputs
    count = max(1, min(shape[0], _CACHE_FLOATS // max(1, floats)))
    # A vector more: an image smaller than a vector is read beyond its end.
    packed = zeroed(("inference", g), count * floats + WIDTH)
    row = max(WIDTH, h.outputs * w.plane)
    wide = scratch("wide", count, g.outputs, row)
    bare = p._replace(low=-math.inf, high=math.inf) if with_addend else p
    steps = []
    for start in range(0, shape[0], count):
        n = min(count, shape[0] - start)
        source = Place(INPUT, 4 * start * g.channels * h.size * w.size)
        pad: list[Setting] = [source, h.size, w.size, packed, g.phases * g.plane, t.lines, t.pixels, int(w.stride == 1)]
        done = 4 * start * g.outputs * n_out
        crop: list[Setting] = [
            wide,
            row,
            w.plane,
            Place(OUTPUT, done),
            h.outputs,
            w.outputs,
            Place(ADDEND, done),
            p.bounds,
        ]
        steps += [
            Step(pad_job, n * g.channels, pad),
            _product(packed, wide, bare, offsets, 1, None, n, floats, g.outputs * row, row, _length(g)),
            Step(crop_job, n * g.outputs, crop),
        ]
    return steps


def _grouped(shape: tuple[int, int, int, int], p: Product, g: Geometry, groups: int) -> Step:
    """All groups of all images one after the other; ``g`` is the geometry of one."""
    t, h, w = tables(g), g.height, g.width
    threads = torch.get_num_threads()
    n_all = shape[0] * groups
    n_tasks = min(n_all, 4 * threads if threads > 1 else 1)
    padded, wide = g.channels * g.phases * g.plane, max(WIDTH, h.outputs * w.plane)
    settings: list[Setting] = [Place(INPUT), h.size, w.size, g.channels, t.lines, t.pixels, int(w.stride == 1)]
    settings += [zeroed(("groups", g), n_tasks, padded + wide), padded, g.phases * g.plane, wide, _length(g)]
    settings += [p.row_starts, t.taps.index_select(0, p.columns), p.values, p.bias, groups, g.outputs, n_all]
    settings += [Place(OUTPUT), h.outputs, w.outputs, w.plane, Place(ADDEND), p.bounds]
    return Step(grouped_job, n_tasks, settings)


def _product(
    x: Tensor | Place,
    y: Tensor | Place,
    p: Product,
    columns: Tensor,
    scale: int,
    addend: Place | None,
    n_blocks: int,
    x_block: int,
    y_block: int,
    y_row: int,
    length: int,
) -> Step:
    """Blocks (n_blocks, channels, length) to (n_blocks, rows, length); distances in floats."""
    n_row_chunks, n_tile_chunks = _chunks(n_blocks, p.n_rows, length)
    settings: list[Setting] = [
        x,
        x_block,
        y,
        y_block,
        y_row,
        p.parts,
        p.parts.shape[0] - 1,
        columns,
        scale,
        p.values,
        p.bias,
    ]
    settings += [addend, p.n_rows, length, n_row_chunks, n_tile_chunks, p.bounds]
    return Step(fused_job, n_blocks * n_row_chunks * n_tile_chunks, settings)


def _chunks(n_blocks: int, n_rows: int, length: int) -> tuple[int, int]:
    """Into how many chunks rows and tiles are cut, so that every thread finds work."""
    threads = torch.get_num_threads()
    if threads == 1 or n_blocks >= 4 * threads:
        return 1, 1
    tiles = -(-length // (MOST * WIDTH))
    if tiles >= 4 * threads:  # each thread reads its own pixels
        return 1, 4 * threads
    return min(max(n_rows, 1), 4 * threads), 1


def _length(g: Geometry) -> int:
    """Positions from the first output to the last; at least a vector, the rest is left out."""
    return max(WIDTH, (g.height.outputs - 1) * g.width.plane + g.width.outputs)
