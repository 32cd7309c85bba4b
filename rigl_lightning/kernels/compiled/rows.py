"""One row of a sparse × dense product, for up to eight vectors of positions whose sums stay in registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from rigl_lightning.kernels.compiled.ir import (
    F32,
    FLAGS,
    I32,
    I64,
    WIDTH,
    Codegen,
    emit_cases,
    emit_load,
    emit_store,
    multiply_add,
    splat,
)

MOST = 8
"""Vectors of outputs that are kept in registers at once: half of AVX2's sixteen, the rest hold operands."""
_KIND = ir.VectorType(F32, WIDTH)


class Row(NamedTuple):
    """What `product_row` reads and writes: ``y = first + addend + sum of values[k] * x[columns[k] * scale]``.

    Attributes:
        x: Address of the inputs.
        columns: Address of the columns, int32.
        scale: Floats from one column to the next.
        values: Address of the values.
        start: First connection.
        stop: The one after the last.
        y: Address of the outputs.
        last: Position at which the last vector begins. Vectors may overlap: a position is then computed twice, with
            the same result.
        addend: Address of what is added; it may be that of the outputs. 0 for none.
        first: A number that is added.
    """

    x: Any
    columns: Any
    scale: Any
    values: Any
    start: Any
    stop: Any
    y: Any
    last: Any
    addend: Any
    first: Any


_KINDS = (*[types.int64] * 9, types.float32)
"""Of the fields of `Row`."""


@intrinsic
def product_row(typing_context: Any, n: Any, row: Any, bounds: Any) -> tuple[Any, Codegen]:
    """One `Row` for ``n`` vectors of positions, 1 to `MOST`.

    The outputs are held within ``bounds``, (low, high) or None; NaN stays NaN.
    """
    is_bounded = isinstance(bounds, types.BaseTuple)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = zip(cgutils.unpack_tuple(builder, args[1]), row.types, _KINDS, strict=True)
        operands = Row(*(context.cast(builder, value, kind, wanted) for value, kind, wanted in given))

        def finish(total: Any) -> Any:
            return emit_bounded(builder, total, *cgutils.unpack_tuple(builder, args[2])) if is_bounded else total

        emit_cases(builder, args[0], range(1, MOST + 1), lambda n: _emit_row(builder, n, operands, finish))
        return context.get_dummy_value()

    return types.void(types.int64, row, types.UniTuple(types.float32, 2) if is_bounded else bounds), codegen


@register_jitable(inline="always")
def tiles_of(length):  # type: ignore[no-untyped-def]  # numba has no types
    """Into how many tiles of at most `MOST` vectors a row of ``length`` positions, at least one vector, is cut."""
    return ((length + WIDTH - 1) // WIDTH + MOST - 1) // MOST


@register_jitable(inline="always")
def vectors_of(tile, n_tiles, length):  # type: ignore[no-untyped-def]
    """Vectors of a tile, its first position, and that of the last vector, counted from there.

    The last vector of a row begins within the one before: the same outputs are written twice.
    """
    n_vectors = (length + WIDTH - 1) // WIDTH
    vector = n_vectors * tile // n_tiles
    n, p = n_vectors * (tile + 1) // n_tiles - vector, vector * WIDTH
    return n, p, min((n - 1) * WIDTH, length - WIDTH - p)


def emit_bounded(builder: Any, value: Any, low: Any, high: Any) -> Any:
    """A scalar or vector held within bounds; NaN stays NaN."""
    for order, bound in (("<", low), (">", high)):
        border = splat(builder, bound, WIDTH) if isinstance(value.type, ir.VectorType) else bound
        value = builder.select(builder.fcmp_ordered(order, value, border), border, value)
    return value


def _emit_row(builder: Any, n: int, row: Row, finish: Callable[[Any], Any]) -> None:
    places = [I64(i * WIDTH) for i in range(n - 1)] + [row.last]
    # Several sums for few vectors, to hide the latency of a multiply-add.
    unroll = max(1, MOST // n)
    sums = [[cgutils.alloca_once(builder, _KIND) for _ in places] for _ in range(unroll)]
    _emit_first_sums(builder, row, places, sums)

    def connection(k: Any, totals: Any) -> None:
        offset = builder.mul(builder.sext(emit_load(builder, row.columns, k, I32), I64), row.scale)
        weight = splat(builder, emit_load(builder, row.values, k, F32), WIDTH)
        base = builder.add(row.x, builder.mul(offset, I64(4)))
        for place, total in zip(places, totals, strict=True):
            inputs = emit_load(builder, base, place, _KIND)
            builder.store(multiply_add(builder, weight, inputs, builder.load(total)), total)

    rounds = builder.udiv(builder.sub(row.stop, row.start), I64(unroll))
    with cgutils.for_range(builder, rounds) as loop:
        k = builder.add(row.start, builder.mul(loop.index, I64(unroll)))
        for u, totals in enumerate(sums):
            connection(builder.add(k, I64(u)), totals)
    if unroll > 1:
        done = builder.add(row.start, builder.mul(rounds, I64(unroll)))
        with cgutils.for_range(builder, builder.sub(row.stop, done)) as loop:
            connection(builder.add(done, loop.index), sums[0])
    for i, place in enumerate(places):
        total = builder.load(sums[0][i])
        for others in sums[1:]:
            total = builder.fadd(total, builder.load(others[i]), flags=FLAGS)
        # The addend has been read as a whole: it may be where the outputs are.
        emit_store(builder, finish(total), row.y, place)


def _emit_first_sums(builder: Any, row: Row, places: list[Any], sums: list[list[Any]]) -> None:
    start_value = splat(builder, row.first, WIDTH)
    with builder.if_else(builder.icmp_signed("!=", row.addend, I64(0))) as (then, otherwise):
        with then:
            for place, total in zip(places, sums[0], strict=True):
                more = emit_load(builder, row.addend, place, _KIND)
                builder.store(builder.fadd(start_value, more, flags=FLAGS), total)
        with otherwise:
            for total in sums[0]:
                builder.store(start_value, total)
    for others in sums[1:]:
        for total in others:
            builder.store(ir.Constant(_KIND, [0.0] * WIDTH), total)
