"""Layers of the fast tier for inference, as plans: bias, addend and bounds are part of the product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.blocks import partition, step_from_blocks, step_to_blocks
from rigl_lightning.kernels.compiled.ir import WIDTH
from rigl_lightning.kernels.compiled.rows import MOST
from rigl_lightning.kernels.conv_geometry import Axis, Geometry, Window, tables
from rigl_lightning.kernels.inference.jobs import (
    Cropping,
    Fused,
    Grouped,
    Padding,
    Single,
    crop_job,
    fused_job,
    grouped_job,
    pad_job,
    single_job,
)
from rigl_lightning.kernels.inference.plans import ADDEND, INPUT, OUTPUT, Plan
from rigl_lightning.kernels.settings import Late, readable
from rigl_lightning.kernels.threads import Step
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

    @staticmethod
    def of(weight: Sequence[Tensor], bias: Tensor | None, bounds: Sequence[float]) -> Product:
        """Of the tensors of a weight (values, columns, parts, row starts) in any memory layout."""
        values, columns, parts, starts = map(readable, weight)
        return Product(values, columns, parts, starts, None if bias is None else readable(bias), *bounds)

    def unbounded(self) -> Product:
        """The same without bounds."""
        return self._replace(low=-math.inf, high=math.inf)

    @property
    def n_rows(self) -> int:
        """Outputs of the layer."""
        return self.parts.shape[1]


class _Extent(NamedTuple):
    """Where the blocks of a product lie, in floats."""

    n_blocks: int
    x_block: int
    y_block: int
    y_row: int
    length: int


def plan_linear(samples: int, inputs: int, p: Product) -> Plan:
    """(samples, inputs) to (samples, outputs), none of which is 0."""
    shape = (samples, p.n_rows)
    if samples == 1:
        # One task for each thread's share of the connections is enough: no memory is written twice.
        single = Single(
            x=Late(INPUT),
            starts=p.row_starts,
            columns=p.columns,
            values=p.values,
            bias=p.bias,
            y=Late(OUTPUT),
            n_rows=p.n_rows,
            low=p.low,
            high=p.high,
        )
        threads = torch.get_num_threads()
        return Plan(shape, [Step(single_job, min(p.n_rows, 4 * threads if threads > 1 else 1), single)])
    n_blocks, length = partition(samples)
    x, y = zeroed(("samples", n_blocks), n_blocks, inputs, length), scratch("outputs", n_blocks, p.n_rows, length)
    product = _product(
        x, y, p, p.columns, length, None, _Extent(n_blocks, inputs * length, p.n_rows * length, length, length)
    )
    return Plan(
        shape,
        [
            step_to_blocks(Late(INPUT), x, samples, inputs),
            product,
            step_from_blocks(y, Late(OUTPUT), samples, p.n_rows),
        ],
    )


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
        extent = _Extent(shape[0], shape[1] * length, p.n_rows * length, length, length)
        step = _product(Late(INPUT), Late(OUTPUT), p, p.columns, length, Late(ADDEND), extent)
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
    count, row = max(1, min(shape[0], _CACHE_FLOATS // max(1, floats))), max(WIDTH, h.outputs * w.plane)
    # A vector more: an image smaller than a vector is read beyond its end.
    packed = zeroed(("inference", g), count * floats + WIDTH)
    wide = scratch("wide", count, g.outputs, row)
    bare = p.unbounded() if with_addend else p
    found = []
    for start in range(0, shape[0], count):
        n = min(count, shape[0] - start)
        source, done = Late(INPUT, start * g.channels * h.size * w.size), start * g.outputs * n_out
        pad = Padding(
            source=source,
            height=h.size,
            width=w.size,
            target=packed,
            plane=g.phases * g.plane,
            lines=t.lines,
            pixels=t.pixels,
            is_contiguous=int(w.stride == 1),
        )
        crop = Cropping(
            source=wide,
            plane=row,
            pitch=w.plane,
            target=Late(OUTPUT, done),
            height=h.outputs,
            width=w.outputs,
            addend=Late(ADDEND, done),
            low=p.low,
            high=p.high,
        )
        found += [
            Step(pad_job, n * g.channels, pad),
            _product(packed, wide, bare, offsets, 1, None, _Extent(n, floats, g.outputs * row, row, _length(g))),
            Step(crop_job, n * g.outputs, crop),
        ]
    return found


def _grouped(shape: tuple[int, int, int, int], p: Product, g: Geometry, groups: int) -> Step:
    """All groups of all images one after the other; ``g`` is the geometry of one."""
    t, h, w = tables(g), g.height, g.width
    threads = torch.get_num_threads()
    n_all = shape[0] * groups
    n_tasks = min(n_all, 4 * threads if threads > 1 else 1)
    padded, wide = g.channels * g.phases * g.plane, max(WIDTH, h.outputs * w.plane)
    settings = Grouped(
        source=Late(INPUT),
        height=h.size,
        width=w.size,
        n_channels=g.channels,
        lines=t.lines,
        pixels=t.pixels,
        is_contiguous=int(w.stride == 1),
        scratch=zeroed(("groups", g), n_tasks, padded + wide),
        padded=padded,
        plane=g.phases * g.plane,
        wide=wide,
        length=_length(g),
        starts=p.row_starts,
        columns=t.taps.index_select(0, p.columns),
        values=p.values,
        bias=p.bias,
        n_groups=groups,
        n_rows=g.outputs,
        n_all=n_all,
        out=Late(OUTPUT),
        out_height=h.outputs,
        out_width=w.outputs,
        pitch=w.plane,
        addend=Late(ADDEND),
        low=p.low,
        high=p.high,
    )
    return Step(grouped_job, n_tasks, settings)


def _product(
    x: Tensor | Late, y: Tensor | Late, p: Product, columns: Tensor, scale: int, addend: Late | None, e: _Extent
) -> Step:
    """Blocks (n_blocks, channels, length) to (n_blocks, rows, length)."""
    n_row_chunks, n_tile_chunks = _chunks(e.n_blocks, p.n_rows, e.length)
    settings = Fused(
        x=x,
        x_block=e.x_block,
        y=y,
        y_block=e.y_block,
        y_row=e.y_row,
        parts=p.parts,
        n_parts=p.parts.shape[0] - 1,
        columns=columns,
        scale=scale,
        values=p.values,
        bias=p.bias,
        addend=addend,
        n_rows=p.n_rows,
        length=e.length,
        n_row_chunks=n_row_chunks,
        n_tile_chunks=n_tile_chunks,
        low=p.low,
        high=p.high,
    )
    return Step(fused_job, e.n_blocks * n_row_chunks * n_tile_chunks, settings)


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
