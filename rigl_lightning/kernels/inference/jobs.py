"""Sparse × dense with what follows it: bias, an addend, and bounds (ReLU) applied before the outputs leave registers.

For inference, where no gradient needs the steps between. An image is taken by itself, its pixels side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import (
    F32,
    FLAGS,
    I64,
    WIDTH,
    Codegen,
    emit_load,
    emit_store,
    load_f32,
    load_i32,
    load_i64,
    store_f32,
)
from rigl_lightning.kernels.compiled.rows import Row, emit_bounded, product_row, tiles_of, vectors_of
from rigl_lightning.kernels.settings import Floats, Ints, Longs

_KIND = ir.VectorType(F32, WIDTH)


class Fused(NamedTuple):
    """Settings of `fused_job`."""

    x: Floats
    x_block: int
    y: Floats
    y_block: int
    y_row: int
    parts: Ints
    n_parts: int
    columns: Ints
    scale: int
    values: Floats
    bias: Floats
    addend: Floats
    n_rows: int
    length: int
    n_row_chunks: int
    n_tile_chunks: int
    low: float
    high: float


@job(Fused)
def fused_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """Sparse × dense: each task is a chunk of the tiles and of the rows of one block.

    ``y[block, r, p] = clamp(bias[r] + addend[block, r, p] + sum of values[k] * x[block, columns[k] * scale + p])``,
    p in [0, length), which is at least one vector.
    """
    n_rows, n_parts, length = s.n_rows, s.n_parts, s.length
    zero, infinity = types.float32(0.0), types.float32(float("inf"))
    n_tiles = tiles_of(length)
    row_chunk, tile_chunk = task % s.n_row_chunks, task // s.n_row_chunks % s.n_tile_chunks
    block = task // s.n_row_chunks // s.n_tile_chunks
    bottom, top = n_rows * row_chunk // s.n_row_chunks, n_rows * (row_chunk + 1) // s.n_row_chunks
    for tile in range(n_tiles * tile_chunk // s.n_tile_chunks, n_tiles * (tile_chunk + 1) // s.n_tile_chunks):
        n, p, last = vectors_of(tile, n_tiles, length)
        xt = s.x + 4 * (block * s.x_block + p)
        for part in range(n_parts):
            starts = s.parts + 4 * part * n_rows
            low, high = (s.low, s.high) if part == n_parts - 1 else (-infinity, infinity)
            for r in range(bottom, top):
                k0, k1 = load_i32(starts, r), load_i32(starts + 4 * n_rows, r)
                offset = 4 * (block * s.y_block + r * s.y_row + p)
                out, first, more = s.y + offset, zero, types.int64(0)
                if part:
                    if k0 == k1 and part < n_parts - 1:
                        continue
                    more = out
                else:
                    if s.bias != 0:
                        first = load_f32(s.bias, r)
                    if s.addend != 0:
                        more = s.addend + offset
                row = Row(xt, s.columns, s.scale, s.values, k0, k1, out, last, more, first)
                product_row(n, row, (low, high))


class Single(NamedTuple):
    """Settings of `single_job`."""

    x: Floats
    starts: Ints
    columns: Ints
    values: Floats
    bias: Floats
    y: Floats
    n_rows: int
    low: float
    high: float


@job(Single)
def single_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Sparse matrix times one vector: each task is a range of rows."""
    x, columns, values = s.x, s.columns, s.values
    zero = types.float32(0.0)
    for r in range(s.n_rows * task // n_tasks, s.n_rows * (task + 1) // n_tasks):
        k, stop = load_i32(s.starts, r), load_i32(s.starts, r + 1)
        total = load_f32(s.bias, r) if s.bias != 0 else zero
        second, third, fourth = zero, zero, zero  # to hide the latency of an addition
        while stop - k >= 4:
            total += load_f32(values, k) * load_f32(x, load_i32(columns, k))
            second += load_f32(values, k + 1) * load_f32(x, load_i32(columns, k + 1))
            third += load_f32(values, k + 2) * load_f32(x, load_i32(columns, k + 2))
            fourth += load_f32(values, k + 3) * load_f32(x, load_i32(columns, k + 3))
            k += 4
        while k < stop:
            total += load_f32(values, k) * load_f32(x, load_i32(columns, k))
            k += 1
        total = (total + second) + (third + fourth)
        total = s.low if total < s.low else total
        store_f32(s.y, r, s.high if total > s.high else total)


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, count: Any) -> tuple[Any, Codegen]:
    """``target[:count] = source[:count]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source, count = args

        def move(p: Any, kind: Any) -> None:
            emit_store(builder, emit_load(builder, source, p, kind), target, p)

        _each(builder, count, move)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def _finish(
    typing_context: Any, target: Any, source: Any, addend: Any, count: Any, low: Any, high: Any
) -> tuple[Any, Codegen]:
    """``target[:count] = clamp(source[:count] + addend[:count], low, high)``; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source, addend, count, low, high = args

        def move(p: Any, kind: Any) -> None:
            total = builder.fadd(emit_load(builder, source, p, kind), emit_load(builder, addend, p, kind), flags=FLAGS)
            emit_store(builder, emit_bounded(builder, total, low, high), target, p)

        _each(builder, count, move)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, *[types.float32] * 2), codegen


def _each(builder: Any, count: Any, move: Callable[[Any, Any], None]) -> None:
    """``move(p, kind)`` for whole vectors of positions, then for single ones."""
    whole = builder.udiv(count, I64(WIDTH))
    with cgutils.for_range(builder, whole) as loop:
        move(builder.mul(loop.index, I64(WIDTH)), _KIND)
    done = builder.mul(whole, I64(WIDTH))
    with cgutils.for_range(builder, builder.sub(count, done)) as loop:
        move(builder.add(done, loop.index), F32)


class Padding(NamedTuple):
    """Settings of `pad_job`."""

    source: Floats
    height: int
    width: int
    target: Floats
    plane: int
    lines: Longs
    pixels: Longs
    is_contiguous: int


@job(Padding)
def pad_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Images into the middle of zero margins, split by phase of the stride; each task is one channel of one image.

    ``target[plane, lines[i] + pixels[j]] = source[plane, i, j]``; the margins are not written.
    """
    _pad(s, s.source + 4 * task * s.height * s.width, s.target + 4 * task * s.plane)


@register_jitable(inline="always")
def _pad(s, source, target):  # type: ignore[no-untyped-def]
    """One channel of one image, for `pad_job` and `grouped_job`."""
    for i in range(s.height):
        line = target + 4 * load_i64(s.lines, i)
        if s.is_contiguous:
            _copy(line + 4 * load_i64(s.pixels, 0), source, s.width)
        else:
            for j in range(s.width):
                store_f32(line, load_i64(s.pixels, j), load_f32(source, j))
        source += 4 * s.width


class Cropping(NamedTuple):
    """Settings of `crop_job`."""

    source: Floats
    plane: int
    pitch: int
    target: Floats
    height: int
    width: int
    addend: Floats
    low: float
    high: float


@job(Cropping)
def crop_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Lines without the pixels between them: each task is one channel of one image.

    ``target[channel, i, j] = clamp(source[channel, i * pitch + j] + addend[channel, i, j])``; without an addend the
    bounds were applied before.
    """
    _crop(s, s.source + 4 * task * s.plane, s.target, 4 * task * s.height * s.width, s.height, s.width)


@register_jitable(inline="always")
def _crop(s, source, target, offset, height, width):  # type: ignore[no-untyped-def]
    """One channel of one image, ``offset`` bytes from the first, for `crop_job` and `grouped_job`."""
    for _ in range(height):
        if s.addend == 0:
            _copy(target + offset, source, width)
        else:
            _finish(target + offset, source, s.addend + offset, width, s.low, s.high)
        source += 4 * s.pitch
        offset += 4 * width


class Grouped(NamedTuple):
    """Settings of `grouped_job`."""

    source: Floats
    height: int
    width: int
    n_channels: int
    lines: Longs
    pixels: Longs
    is_contiguous: int
    scratch: Floats
    padded: int
    plane: int
    wide: int
    length: int
    starts: Ints
    columns: Ints
    values: Floats
    bias: Floats
    n_groups: int
    n_rows: int
    n_all: int
    out: Floats
    out_height: int
    out_width: int
    pitch: int
    addend: Floats
    low: float
    high: float


@job(Grouped)
def grouped_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Convolution of many small groups, such as a depthwise one: each task is a range of groups of images.

    A group is padded, multiplied and cropped while its few channels are in the first-level cache. ``columns`` are
    offsets within a padded group; a task has ``scratch`` of its own: a padded group, then one row of outputs.
    """
    zero, infinity, none = types.float32(0.0), types.float32(float("inf")), types.int64(0)
    n_tiles = tiles_of(s.length)
    x = s.scratch + 4 * task * (s.padded + s.wide)
    y = x + 4 * s.padded
    below, above = (s.low, s.high) if s.addend == 0 else (-infinity, infinity)
    for index in range(s.n_all * task // n_tasks, s.n_all * (task + 1) // n_tasks):
        source = s.source + 4 * index * s.n_channels * s.height * s.width
        for channel in range(s.n_channels):
            _pad(s, source + 4 * channel * s.height * s.width, x + 4 * channel * s.plane)
        for row in range(s.n_rows):
            r = index % s.n_groups * s.n_rows + row
            k0, k1 = load_i32(s.starts, r), load_i32(s.starts, r + 1)
            first = load_f32(s.bias, r) if s.bias != 0 else zero
            for tile in range(n_tiles):
                n, p, last = vectors_of(tile, n_tiles, s.length)
                connections = Row(x + 4 * p, s.columns, 1, s.values, k0, k1, y + 4 * p, last, none, first)
                product_row(n, connections, (below, above))
            offset = 4 * (index * s.n_rows + row) * s.out_height * s.out_width
            _crop(s, y, s.out, offset, s.out_height, s.out_width)
