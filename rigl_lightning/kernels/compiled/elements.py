"""Elements in memory, float32 or bfloat16, which are read and written as float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rigl_lightning.kernels.compiled.ir import F32, I32, I64, Codegen, emit_load, emit_store, lane_numbers

_I16 = ir.IntType(16)
_SIDE = 8
"""Rows and columns of a matrix that is transposed in registers."""


class Element(NamedTuple):
    """How the elements of a tensor lie in memory.

    Attributes:
        name: For the name of a job.
        size: Bytes.
        read: ``read(builder, address, index, lanes)``: float32 values of so many elements, a scalar of one.
        write: ``write(builder, value, address, index)``.
    """

    name: str
    size: int
    read: Callable[[Any, Any, Any, int], Any]
    write: Callable[[Any, Any, Any, Any], None]


def _lanes_of(kind: Any, lanes: int) -> Any:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _read_float(builder: Any, address: Any, index: Any, lanes: int) -> Any:
    return emit_load(builder, address, index, _lanes_of(F32, lanes))


def _place(builder: Any, address: Any, index: Any, lanes: int) -> Any:
    base = builder.inttoptr(address, _I16.as_pointer())
    return builder.bitcast(builder.gep(base, [index]), _lanes_of(_I16, lanes).as_pointer())


def _read_bfloat(builder: Any, address: Any, index: Any, lanes: int) -> Any:
    """The upper halves of float32 values, whose lower ones are zero."""
    wide = _lanes_of(I32, lanes)
    bits = builder.zext(builder.load(_place(builder, address, index, lanes), align=2), wide)
    return builder.bitcast(builder.shl(bits, _constant(wide, 16)), _lanes_of(F32, lanes))


def _write_bfloat(builder: Any, value: Any, address: Any, index: Any) -> None:
    """Rounded to the nearest, ties to even, as torch does it; NaN stays NaN."""
    lanes = value.type.count if isinstance(value.type, ir.VectorType) else 1
    wide = _lanes_of(I32, lanes)
    bits = builder.bitcast(value, wide)
    odd = builder.and_(builder.lshr(bits, _constant(wide, 16)), _constant(wide, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(wide, 0x7FFF)))
    is_nan = builder.fcmp_unordered("uno", value, value)
    upper = builder.lshr(builder.select(is_nan, _constant(wide, 0x7FC00000), rounded), _constant(wide, 16))
    narrow = builder.trunc(upper, _lanes_of(_I16, lanes))
    builder.store(narrow, _place(builder, address, index, lanes), align=2)


FLOAT = Element("float", 4, _read_float, emit_store)
BFLOAT = Element("bfloat", 2, _read_bfloat, _write_bfloat)


def copy_element(source_element: Element, target_element: Element) -> Any:
    """``copy(source, i, target, j)``: one element."""

    @intrinsic
    def copy(typing_context: Any, source: Any, i: Any, target: Any, j: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, i, target, j = args
            target_element.write(builder, source_element.read(builder, source, i, 1), target, j)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return copy


def transpose_square(source_element: Element, target_element: Element) -> Any:
    """``transpose(source, source_rows, target, target_rows)`` of eight by eight elements.

    ``target[target_rows[j] + i] = source[source_rows[i] + j]`` for i, j in [0, 8); the row offsets are int64.
    """

    @intrinsic
    def transpose(
        typing_context: Any, source: Any, source_rows: Any, target: Any, target_rows: Any
    ) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, source_rows, target, target_rows = args
            offsets = [emit_load(builder, source_rows, I64(i), I64) for i in range(_SIDE)]
            rows = [source_element.read(builder, source, offset, _SIDE) for offset in offsets]
            for j, row in enumerate(_transposed(builder, rows)):
                target_element.write(builder, row, target, emit_load(builder, target_rows, I64(j), I64))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return transpose


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight lanes, transposed by three rounds of exchanges (of 4, 2, then 1 lanes)."""
    rows = list(rows)
    for span in (4, 2, 1):
        low = lane_numbers([lane if not lane & span else _SIDE + lane - span for lane in range(_SIDE)])
        high = lane_numbers([lane + span if not lane & span else _SIDE + lane for lane in range(_SIDE)])
        for i in range(_SIDE):
            if not i & span:
                a, b = rows[i], rows[i + span]
                rows[i] = builder.shuffle_vector(a, b, low)
                rows[i + span] = builder.shuffle_vector(a, b, high)
    return rows
