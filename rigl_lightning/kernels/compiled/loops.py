"""Loops over floats that lie side by side: sums of them, and results element by element, as vectors of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rigl_lightning.kernels.compiled.ir import F32, FLAGS, I64, WIDTH, Codegen, emit_load, emit_store, folded, splat

_UNROLL = 4
"""Vectors of one turn, each with sums of its own: they hide the latency of an addition."""
_VECTOR = ir.VectorType(F32, WIDTH)

Emit = Callable[[Any, Sequence[Any], Sequence[Any]], Sequence[Any]]
"""Of the builder, one element or vector of each input, and the numbers: what is added to each sum, or the result."""


def sums_over(n_inputs: int, n_numbers: int, n_sums: int, emit: Emit) -> Any:
    """``sums(inputs, numbers, count)``: float32 sums over ``count`` elements of what ``emit`` makes of each.

    ``inputs`` is a tuple of addresses, ``numbers`` one of float32.
    """
    result = types.UniTuple(types.float32, n_sums)

    @intrinsic
    def sums(typing_context: Any, inputs: Any, numbers: Any, count: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            inputs, numbers, count = cgutils.unpack_tuple(builder, args[0]), _unpacked(builder, args[1]), args[2]
            totals = [[_zero(builder, _VECTOR) for _ in range(n_sums)] for _ in range(_UNROLL)]
            singles = [_zero(builder, F32) for _ in range(n_sums)]

            def add(index: Any, kind: Any, turn: int) -> None:
                own = totals[turn] if kind is _VECTOR else singles
                for total, value in zip(own, _emitted(builder, emit, inputs, numbers, index, kind), strict=True):
                    builder.store(builder.fadd(builder.load(total), value, flags=FLAGS), total)

            _over(builder, count, add)
            found = []
            for i, single in enumerate(singles):
                total = builder.load(totals[0][i])
                for others in totals[1:]:
                    total = builder.fadd(total, builder.load(others[i]), flags=FLAGS)
                lane = builder.extract_element(folded(builder, total, 1), ir.IntType(32)(0))
                found.append(builder.fadd(lane, builder.load(single), flags=FLAGS))
            return context.make_tuple(builder, signature.return_type, found)

        return _signature(result, n_inputs, n_numbers), codegen

    return sums


def each_of(n_inputs: int, n_numbers: int, emit: Emit) -> Any:
    """``each(inputs, numbers, count)``: writes what ``emit`` makes of each element to the last address of ``inputs``.

    The result may overwrite an input.
    """

    @intrinsic
    def each(typing_context: Any, inputs: Any, numbers: Any, count: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            *inputs, out = cgutils.unpack_tuple(builder, args[0])
            numbers = _unpacked(builder, args[1])

            def write(index: Any, kind: Any, turn: int) -> None:
                (value,) = _emitted(builder, emit, inputs, numbers, index, kind)
                emit_store(builder, value, out, index)

            _over(builder, args[2], write)
            return context.get_dummy_value()

        return _signature(types.void, n_inputs + 1, n_numbers), codegen

    return each


def _signature(result: Any, n_addresses: int, n_numbers: int) -> Any:
    return result(types.UniTuple(types.int64, n_addresses), types.UniTuple(types.float32, n_numbers), types.int64)


def _unpacked(builder: Any, numbers: Any) -> list[tuple[Any, Any]]:
    """Each number as a scalar and as a vector."""
    return [(number, splat(builder, number, WIDTH)) for number in cgutils.unpack_tuple(builder, numbers)]


def _zero(builder: Any, kind: Any) -> Any:
    total = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, [0.0] * WIDTH if kind is _VECTOR else 0.0), total)
    return total


def _emitted(builder: Any, emit: Emit, inputs: Any, numbers: Any, index: Any, kind: Any) -> Sequence[Any]:
    loaded = [emit_load(builder, address, index, kind) for address in inputs]
    return emit(builder, loaded, [number[kind is _VECTOR] for number in numbers])


def _over(builder: Any, count: Any, do: Callable[[Any, Any, int], None]) -> None:
    """``do(index, kind, turn)`` for all of ``count`` elements: by several vectors, by one, one by one."""
    done = I64(0)
    for kind, turns, lanes in ((_VECTOR, _UNROLL, WIDTH), (_VECTOR, 1, WIDTH), (F32, 1, 1)):
        step = I64(turns * lanes)
        rounds = builder.udiv(builder.sub(count, done), step)
        with cgutils.for_range(builder, rounds) as loop:
            first = builder.add(done, builder.mul(loop.index, step))
            for turn in range(turns):
                do(builder.add(first, I64(turn * lanes)), kind, turn)
        done = builder.add(done, builder.mul(rounds, step))
