"""Vector instructions for numba: the inner loops of the kernels, written as LLVM IR.

Loops written in Python vectorise badly, so the rows of a product are built here, as wide vectors that LLVM splits
into the registers of the host: AVX-512, AVX2 or Neon. Memory is addressed by plain integers and element indices.
Multiplications and additions may be contracted and sums reordered; NaN and infinity stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from rigl_lightning.kernels.settings import FIRST, fields_of

I8, I32, I64, F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
Codegen = Callable[[Any, Any, Any, Any], Any]

# Of the instructions that numba compiles for: the host's, or those of NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.
WIDTH = 16 if "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2] else 8
"""Floats of one vector: a register of AVX-512 or AVX2, two of Neon."""
TILES = (8 * WIDTH, 4 * WIDTH, 2 * WIDTH, WIDTH)
"""Numbers of samples, in floats, that are computed side by side; the widest fills the registers."""
FLAGS = ("contract", "reassoc")


def _element(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    """Pointer to element ``index`` of an array of scalars at ``address``, as a pointer to ``kind``."""
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    base = builder.inttoptr(address, scalar.as_pointer())
    return builder.bitcast(builder.gep(base, [index]), kind.as_pointer())


def emit_load(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    """Element ``index`` of an array of scalars at ``address``, or the vector that begins there."""
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    return builder.load(_element(builder, address, index, kind), align={I8: 1, I64: 8}.get(scalar, 4))


def emit_store(builder: Any, value: Any, address: Any, index: Any) -> None:
    """Write a scalar or a vector to element ``index`` of an array of scalars, and those after it."""
    builder.store(value, _element(builder, address, index, value.type), align=4)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Vector whose lanes are all ``value``."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lane_numbers([0] * lanes))


def lane_numbers(order: Sequence[int]) -> Any:
    """Operand of a shuffle."""
    return ir.Constant(ir.VectorType(I32, len(order)), list(order))


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of scalars or vectors."""
    name = f"llvm.fmuladd.v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "llvm.fmuladd.f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c], fastmath=FLAGS)


def emit_cases(builder: Any, value: Any, cases: Sequence[int], emit: Callable[[int], None]) -> None:
    """The instructions of ``emit(case)`` for that of the cases which ``value`` is; none for another."""
    done = builder.append_basic_block("done")
    switch = builder.switch(value, done)
    for case in cases:
        block = builder.append_basic_block(f"case_{case}")
        switch.add_case(I64(case), block)
        builder.position_at_end(block)
        emit(case)
        builder.branch(done)
    builder.position_at_end(done)


def _add(builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b, flags=FLAGS)


def _reader(kind: Any, result: Any, widen: bool = False) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any, index: Any) -> tuple[Any, Codegen]:
        """Element ``index`` of the array at ``address``."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = emit_load(builder, args[0], args[1], kind)
            return builder.sext(value, I64) if widen else value

        return result(types.int64, types.int64), codegen

    return load


def _writer(argument: Any, narrow: bool = False) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> tuple[Any, Codegen]:
        """Write element ``index`` of the array at ``address``."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.trunc(args[2], I32) if narrow else args[2]
            emit_store(builder, value, args[0], args[1])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, argument), codegen

    return store


load_i64 = _reader(I64, types.int64)
load_i32 = _reader(I32, types.int64, widen=True)
load_flag = _reader(I8, types.int64, widen=True)
load_f32 = _reader(F32, types.float32)
store_f32 = _writer(types.float32)
store_i32 = _writer(types.int64, narrow=True)
store_i64 = _writer(types.int64)


@intrinsic
def next_task(typing_context: Any, counter: Any) -> tuple[Any, Codegen]:
    """Add one to the int64 at address ``counter``, atomically; its value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", pointer, I64(1), "monotonic")

    return types.int64(types.int64), codegen


def settings_reader(settings: type) -> Any:
    """``read(address)``: the settings of a job from its slots, as int64 (addresses, too) or float32."""
    kinds = list(fields_of(settings).values())
    result = types.BaseTuple.from_types([types.float32 if kind is float else types.int64 for kind in kinds], settings)

    @intrinsic
    def read(typing_context: Any, address: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = []
            for slot, kind in enumerate(kinds, FIRST):
                index, loaded = (2 * slot, F32) if kind is float else (slot, I64)
                values.append(emit_load(builder, args[0], I64(index), loaded))
            return context.make_tuple(builder, signature.return_type, values)

        return result(types.int64), codegen

    return read


def gradient_group(size: int) -> Any:
    """Sampled dense × dense product for ``size`` connections of one row.

    ``out[k] += sum of g[j * g_stride + p] * x[columns[k] * scale + j * x_stride + p]`` over j in [0, lines) and
    p in [0, length), for k in [start, start + size).
    """
    vector = ir.VectorType(F32, WIDTH)

    @intrinsic
    def group(
        typing_context: Any,
        x: Any,
        x_stride: Any,
        columns: Any,
        scale: Any,
        g: Any,
        g_stride: Any,
        lines: Any,
        length: Any,
        start: Any,
        out: Any,
    ) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, x_stride, columns, scale, g, g_stride, lines, length, start, out = args
            offsets = []
            for u in range(size):
                column = emit_load(builder, columns, builder.add(start, I64(u)), I32)
                offsets.append(builder.mul(builder.sext(column, I64), scale))

            def dot_products(kind: Any, first: Any, count: Any) -> list[Any]:
                """Sums over positions ``first + i * lanes``, i in [0, count), of every line, lane by lane."""
                lanes = WIDTH if kind is vector else 1
                totals = [cgutils.alloca_once(builder, kind) for _ in range(size)]
                for total in totals:
                    builder.store(ir.Constant(kind, [0.0] * WIDTH if kind is vector else 0.0), total)
                with cgutils.for_range(builder, lines) as line:
                    g_line = builder.add(first, builder.mul(line.index, g_stride))
                    x_line = builder.add(first, builder.mul(line.index, x_stride))
                    with cgutils.for_range(builder, count) as loop:
                        p = builder.mul(loop.index, I64(lanes))
                        gradient = emit_load(builder, g, builder.add(g_line, p), kind)
                        for offset, total in zip(offsets, totals, strict=True):
                            inputs = emit_load(builder, x, builder.add(builder.add(x_line, p), offset), kind)
                            builder.store(multiply_add(builder, gradient, inputs, builder.load(total)), total)
                return [builder.load(total) for total in totals]

            whole = builder.udiv(length, I64(WIDTH))
            total = _horizontal_sums(builder, dot_products(vector, I64(0), whole))
            before = emit_load(builder, out, start, total.type)
            emit_store(builder, _add(builder, before, total), out, start)
            rest = builder.urem(length, I64(WIDTH))
            with builder.if_then(builder.icmp_unsigned("!=", rest, I64(0)), likely=False):
                singles = dot_products(F32, builder.mul(whole, I64(WIDTH)), rest)
                for u, single in enumerate(singles):
                    k = builder.add(start, I64(u))
                    emit_store(builder, _add(builder, emit_load(builder, out, k, F32), single), out, k)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), codegen

    return group


def _fold_pair(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    """Of every four lanes of ``a`` and ``b``, the lanes ``order[:4]`` plus ``order[4:]``; 4 to 7 are those of ``b``."""
    n = a.type.count
    index = [[lane + base if lane < 4 else n + lane - 4 + base for lane in order] for base in range(0, n, 4)]
    low = lane_numbers([lane for lanes in index for lane in lanes[:4]])
    high = lane_numbers([lane for lanes in index for lane in lanes[4:]])
    return _add(builder, builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))


def folded(builder: Any, vector: Any, lanes: int) -> Any:
    """Upper half added to the lower until ``lanes`` are left."""
    while vector.type.count > lanes:
        half = vector.type.count // 2
        low = builder.shuffle_vector(vector, vector, lane_numbers(range(half)))
        high = builder.shuffle_vector(vector, vector, lane_numbers(range(half, 2 * half)))
        vector = _add(builder, low, high)
    return vector


def _sums_of_four(builder: Any, vectors: Sequence[Any]) -> Any:
    ab, cd = (_fold_pair(builder, a, b, (0, 4, 1, 5, 2, 6, 3, 7)) for a, b in (vectors[:2], vectors[2:]))
    return folded(builder, _fold_pair(builder, ab, cd, (0, 1, 4, 5, 2, 3, 6, 7)), 4)


def _horizontal_sums(builder: Any, vectors: Sequence[Any]) -> Any:
    """Sum of the lanes of each vector, as one vector."""
    if len(vectors) >= 4:
        parts = [_sums_of_four(builder, vectors[i : i + 4]) for i in range(0, len(vectors), 4)]
        return parts[0] if len(parts) == 1 else builder.shuffle_vector(*parts, lane_numbers(range(8)))
    kind = ir.VectorType(F32, len(vectors))
    result = ir.Constant(kind, ir.Undefined)
    for u, vector in enumerate(vectors):
        result = builder.insert_element(result, builder.extract_element(folded(builder, vector, 1), I32(0)), I32(u))
    return result
