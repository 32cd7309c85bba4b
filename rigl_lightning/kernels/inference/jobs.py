"""Sparse × dense with what follows it: bias, an addend, and bounds (ReLU) applied before the outputs leave registers.

For inference, where no gradient needs the steps between. An image is taken by itself, its pixels side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import (
    F32,
    FLAGS,
    I32,
    I64,
    WIDTH,
    Codegen,
    _load,
    _multiply_add,
    _splat,
    _store,
    load_f32,
    load_i32,
    load_i64,
    next_task,
    store_f32,
)

MOST = 8
"""Vectors of outputs that are kept in registers at once: half of AVX2's sixteen, the rest hold operands."""
_KIND = ir.VectorType(F32, WIDTH)


def _bounded(builder: Any, value: Any, low: Any, high: Any) -> Any:
    for order, bound in (("<", low), (">", high)):
        border = _splat(builder, bound, WIDTH) if isinstance(value.type, ir.VectorType) else bound
        value = builder.select(builder.fcmp_ordered(order, value, border), border, value)
    return value


def _row(n: int) -> Any:
    """One row of a product for ``n`` vectors of positions, the last of which begins at position ``last``.

    ``y = clamp(first + addend + sum of values[k] * x[columns[k] * scale], low, high)``; NaN stays NaN. Vectors may
    overlap: a position is then computed twice, with the same result.
    """
    unroll = max(1, MOST // n)

    @intrinsic
    def row(
        typing_context: Any,
        x: Any,
        columns: Any,
        scale: Any,
        values: Any,
        start: Any,
        stop: Any,
        y: Any,
        last: Any,
        addend: Any,
        first: Any,
        low: Any,
        high: Any,
    ) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, columns, scale, values, start, stop, y, last, addend, first, low, high = args
            places = [I64(i * WIDTH) for i in range(n - 1)] + [last]
            # Several sums for few vectors, to hide the latency of a multiply-add.
            sums = [[cgutils.alloca_once(builder, _KIND) for _ in places] for _ in range(unroll)]
            start_value = _splat(builder, first, WIDTH)
            with builder.if_else(builder.icmp_signed("!=", addend, I64(0))) as (then, otherwise):
                with then:
                    for place, total in zip(places, sums[0], strict=True):
                        more = _load(builder, addend, place, _KIND)
                        builder.store(builder.fadd(start_value, more, flags=FLAGS), total)
                with otherwise:
                    for total in sums[0]:
                        builder.store(start_value, total)
            for others in sums[1:]:
                for total in others:
                    builder.store(ir.Constant(_KIND, [0.0] * WIDTH), total)

            def connection(k: Any, totals: Any) -> None:
                offset = builder.mul(builder.sext(_load(builder, columns, k, I32), I64), scale)
                weight = _splat(builder, _load(builder, values, k, F32), WIDTH)
                base = builder.add(x, builder.mul(offset, I64(4)))
                for place, total in zip(places, totals, strict=True):
                    inputs = _load(builder, base, place, _KIND)
                    builder.store(_multiply_add(builder, weight, inputs, builder.load(total)), total)

            rounds = builder.udiv(builder.sub(stop, start), I64(unroll))
            with cgutils.for_range(builder, rounds) as loop:
                k = builder.add(start, builder.mul(loop.index, I64(unroll)))
                for u, totals in enumerate(sums):
                    connection(builder.add(k, I64(u)), totals)
            if unroll > 1:
                done = builder.add(start, builder.mul(rounds, I64(unroll)))
                with cgutils.for_range(builder, builder.sub(stop, done)) as loop:
                    connection(builder.add(done, loop.index), sums[0])
            results = []
            for i in range(n):
                total = builder.load(sums[0][i])
                for others in sums[1:]:
                    total = builder.fadd(total, builder.load(others[i]), flags=FLAGS)
                results.append(_bounded(builder, total, low, high))
            for place, result in zip(places, results, strict=True):
                _store(builder, result, y, place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, *[types.float32] * 3), codegen

    return row


_row_1, _row_2, _row_3, _row_4, _row_5, _row_6, _row_7, _row_8 = (_row(n) for n in range(1, MOST + 1))


@job
def fused_job(a):  # type: ignore[no-untyped-def]  # numba has no types
    """Sparse × dense: each task is a chunk of the tiles and of the rows of one block.

    ``y[block, r, p] = clamp(bias[r] + addend[block, r, p] + sum of values[k] * x[block, columns[k] * scale + p])``,
    p in [0, length), which is at least one vector.
    """
    x, x_block, y, y_block, y_row = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5), load_i64(a, 6)
    parts, n_parts = load_i64(a, 7), load_i64(a, 8)
    columns, scale, values, bias = load_i64(a, 9), load_i64(a, 10), load_i64(a, 11), load_i64(a, 12)
    addend, n_rows, length = load_i64(a, 13), load_i64(a, 14), load_i64(a, 15)
    n_row_chunks, n_tile_chunks = load_i64(a, 16), load_i64(a, 17)
    lowest, highest = load_f32(a + 8 * 18, 0), load_f32(a + 8 * 18, 1)
    zero, infinity = types.float32(0.0), types.float32(float("inf"))
    n_vectors = (length + WIDTH - 1) // WIDTH
    n_tiles = (n_vectors + MOST - 1) // MOST
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        row_chunk, tile_chunk = task % n_row_chunks, task // n_row_chunks % n_tile_chunks
        block = task // n_row_chunks // n_tile_chunks
        bottom, top = n_rows * row_chunk // n_row_chunks, n_rows * (row_chunk + 1) // n_row_chunks
        for tile in range(n_tiles * tile_chunk // n_tile_chunks, n_tiles * (tile_chunk + 1) // n_tile_chunks):
            vector = n_vectors * tile // n_tiles
            n = n_vectors * (tile + 1) // n_tiles - vector
            p = vector * WIDTH
            last = min((n - 1) * WIDTH, length - WIDTH - p)
            xt = x + 4 * (block * x_block + p)
            for part in range(n_parts):
                starts = parts + 4 * part * n_rows
                low, high = (lowest, highest) if part == n_parts - 1 else (-infinity, infinity)
                for r in range(bottom, top):
                    k0, k1 = load_i32(starts, r), load_i32(starts + 4 * n_rows, r)
                    offset = 4 * (block * y_block + r * y_row + p)
                    out, first, more = y + offset, zero, types.int64(0)
                    if part:
                        if k0 == k1 and part < n_parts - 1:
                            continue
                        more = out
                    else:
                        if bias != 0:
                            first = load_f32(bias, r)
                        if addend != 0:
                            more = addend + offset
                    if n == 8:
                        _row_8(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    elif n == 7:
                        _row_7(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    elif n == 6:
                        _row_6(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    elif n == 5:
                        _row_5(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    elif n == 4:
                        _row_4(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    elif n == 3:
                        _row_3(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    elif n == 2:
                        _row_2(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)
                    else:
                        _row_1(xt, columns, scale, values, k0, k1, out, last, more, first, low, high)


@job
def single_job(a):  # type: ignore[no-untyped-def]
    """Sparse matrix times one vector: each task is a range of rows."""
    x, starts, columns, values = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    bias, y, n_rows = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    low, high = load_f32(a + 8 * 9, 0), load_f32(a + 8 * 9, 1)
    zero = types.float32(0.0)
    n_tasks = load_i64(a, 0)
    while True:
        task = next_task(a + 8)
        if task >= n_tasks:
            return
        for r in range(n_rows * task // n_tasks, n_rows * (task + 1) // n_tasks):
            k, stop = load_i32(starts, r), load_i32(starts, r + 1)
            total = load_f32(bias, r) if bias != 0 else zero
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
            total = low if total < low else total
            store_f32(y, r, high if total > high else total)


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, count: Any) -> tuple[Any, Codegen]:
    """``target[:count] = source[:count]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source, count = args

        def move(p: Any, kind: Any) -> None:
            _store(builder, _load(builder, source, p, kind), target, p)

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
            total = builder.fadd(_load(builder, source, p, kind), _load(builder, addend, p, kind), flags=FLAGS)
            _store(builder, _bounded(builder, total, low, high), target, p)

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


@job
def pad_job(a):  # type: ignore[no-untyped-def]
    """Images into the middle of zero margins, split by phase of the stride; each task is one channel of one image.

    ``target[plane, lines[i] + pixels[j]] = source[plane, i, j]``; the margins are not written.
    """
    source, height, width = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4)
    target, plane = load_i64(a, 5), load_i64(a, 6)
    lines, pixels, contiguous = load_i64(a, 7), load_i64(a, 8), load_i64(a, 9)
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        s, t = source + 4 * task * height * width, target + 4 * task * plane
        for i in range(height):
            line = t + 4 * load_i64(lines, i)
            if contiguous:
                _copy(line + 4 * load_i64(pixels, 0), s, width)
            else:
                for j in range(width):
                    store_f32(line, load_i64(pixels, j), load_f32(s, j))
            s += 4 * width


@job
def crop_job(a):  # type: ignore[no-untyped-def]
    """Lines without the pixels between them: each task is one channel of one image.

    ``target[channel, i, j] = clamp(source[channel, i * pitch + j] + addend[channel, i, j])``.
    """
    source, plane, pitch = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4)
    target, height, width, addend = load_i64(a, 5), load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    low, high = load_f32(a + 8 * 9, 0), load_f32(a + 8 * 9, 1)
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        s = source + 4 * task * plane
        offset = 4 * task * height * width
        for _ in range(height):
            if addend == 0:
                _copy(target + offset, s, width)
            else:
                _finish(target + offset, s, addend + offset, width, low, high)
            s += 4 * pitch
            offset += 4 * width


@job
def grouped_job(a):  # type: ignore[no-untyped-def]
    """Convolution of many small groups, such as a depthwise one: each task is a range of groups of images.

    A group is padded, multiplied and cropped while its few channels are in the first-level cache. ``columns`` are
    offsets within a padded group; a task has ``scratch`` of its own: a padded group, then one row of outputs.
    """
    source, height, width, n_channels = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    lines, pixels, contiguous = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    scratch, padded, plane, wide = load_i64(a, 9), load_i64(a, 10), load_i64(a, 11), load_i64(a, 12)
    length, starts, columns = load_i64(a, 13), load_i64(a, 14), load_i64(a, 15)
    values, bias = load_i64(a, 16), load_i64(a, 17)
    n_groups, n_rows, n_all = load_i64(a, 18), load_i64(a, 19), load_i64(a, 20)
    out, out_height, out_width, pitch = load_i64(a, 21), load_i64(a, 22), load_i64(a, 23), load_i64(a, 24)
    addend, low, high = load_i64(a, 25), load_f32(a + 8 * 26, 0), load_f32(a + 8 * 26, 1)
    zero, infinity, none = types.float32(0.0), types.float32(float("inf")), types.int64(0)
    n_vectors = (length + WIDTH - 1) // WIDTH
    n_tiles = (n_vectors + MOST - 1) // MOST
    n_tasks = load_i64(a, 0)
    while True:
        task = next_task(a + 8)
        if task >= n_tasks:
            return
        x = scratch + 4 * task * (padded + wide)
        y = x + 4 * padded
        for index in range(n_all * task // n_tasks, n_all * (task + 1) // n_tasks):
            s = source + 4 * index * n_channels * height * width
            for channel in range(n_channels):
                for i in range(height):
                    line = x + 4 * (channel * plane + load_i64(lines, i))
                    if contiguous:
                        _copy(line + 4 * load_i64(pixels, 0), s, width)
                    else:
                        for j in range(width):
                            store_f32(line, load_i64(pixels, j), load_f32(s, j))
                    s += 4 * width
            for row in range(n_rows):
                r = index % n_groups * n_rows + row
                k0, k1 = load_i32(starts, r), load_i32(starts, r + 1)
                first = load_f32(bias, r) if bias != 0 else zero
                below, above = (low, high) if addend == 0 else (-infinity, infinity)
                for tile in range(n_tiles):
                    vector = n_vectors * tile // n_tiles
                    n = n_vectors * (tile + 1) // n_tiles - vector
                    p = vector * WIDTH
                    last = min((n - 1) * WIDTH, length - WIDTH - p)
                    xt, yt = x + 4 * p, y + 4 * p
                    if n == 8:
                        _row_8(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    elif n == 7:
                        _row_7(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    elif n == 6:
                        _row_6(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    elif n == 5:
                        _row_5(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    elif n == 4:
                        _row_4(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    elif n == 3:
                        _row_3(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    elif n == 2:
                        _row_2(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                    else:
                        _row_1(xt, columns, 1, values, k0, k1, yt, last, none, first, below, above)
                offset = 4 * (index * n_rows + row) * out_height * out_width
                for i in range(out_height):
                    if addend == 0:
                        _copy(out + offset, y + 4 * i * pitch, out_width)
                    else:
                        _finish(out + offset, y + 4 * i * pitch, addend + offset, out_width, low, high)
                    offset += 4 * out_width
