"""One row of a sparse × dense product, for up to eight vectors of positions whose sums stay in registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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


class _Row(NamedTuple):
    """Operands of a row in the function that is being built; see `product_row`."""

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


@intrinsic
def product_row(
    typing_context: Any,
    n: Any,
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
) -> tuple[Any, Codegen]:
    """One row for ``n`` vectors of positions, 1 to `MOST`, the last of which begins at position ``last``.

    ``y = first + addend + sum of values[k] * x[columns[k] * scale]`` over k in [start, stop), without the addend if its
    address is 0. Vectors may overlap: a position is then computed twice, with the same result.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _Row(*args[1:])
        emit_cases(builder, args[0], range(1, MOST + 1), lambda n: _emit_row(builder, n, row, lambda total: total))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, types.float32), codegen


@intrinsic
def bounded_row(
    typing_context: Any,
    n: Any,
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
    """As `product_row`, the outputs held within [low, high]; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, (low, high) = _Row(*args[1:11]), args[11:]

        def finish(total: Any) -> Any:
            return emit_bounded(builder, total, low, high)

        emit_cases(builder, args[0], range(1, MOST + 1), lambda n: _emit_row(builder, n, row, finish))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, *[types.float32] * 3), codegen


def emit_bounded(builder: Any, value: Any, low: Any, high: Any) -> Any:
    """A scalar or vector held within bounds; NaN stays NaN."""
    for order, bound in (("<", low), (">", high)):
        border = splat(builder, bound, WIDTH) if isinstance(value.type, ir.VectorType) else bound
        value = builder.select(builder.fcmp_ordered(order, value, border), border, value)
    return value


def _emit_row(builder: Any, n: int, row: _Row, finish: Callable[[Any], Any]) -> None:
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


def _emit_first_sums(builder: Any, row: _Row, places: list[Any], sums: list[list[Any]]) -> None:
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
