"""Positions of True flags: eight flags a step, without a branch that a processor could guess wrongly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import I8, I64, Codegen, emit_load, emit_store, load_flag, splat, store_i64
from rigl_lightning.kernels.settings import Flags, Longs
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import new

_AT_ONCE = 8
_BYTES, _LONGS = ir.VectorType(I8, _AT_ONCE), ir.VectorType(I64, _AT_ONCE)
_GATHER = 0x0102040810204080
"""Times eight bytes of 0 or 1, in the highest byte: one bit for each of them."""


def _places_of_bits() -> Tensor:
    """For each byte the places of its bits, one after the other, as the bytes of an int64."""
    places = [[bit for bit in range(8) if byte >> bit & 1] for byte in range(256)]
    return torch.tensor([int.from_bytes(bytes(bits), "little") for bits in places])


_PLACES = _places_of_bits()


def positions(flags: Tensor, count: int) -> Tensor:
    """Positions of the True in flags without gaps in memory.

    Args:
        flags: Boolean, on the CPU, of any shape.
        count: How many of them are True.

    Returns:
        int64, shape (count,), ascending.
    """
    found = new(count + _AT_ONCE, dtype=torch.int64)  # each step writes eight numbers, the next over the rest
    run(positions_job, 1, Positions(flags, flags.numel(), _PLACES, found))
    return found[:count]


class Positions(NamedTuple):
    """Settings of `positions_job`."""

    flags: Flags
    n_flags: int
    places: Longs
    found: Longs


@intrinsic
def _append_eight(
    typing_context: Any, flags: Any, start: Any, places: Any, found: Any, count: Any
) -> tuple[Any, Codegen]:
    """Write the positions of the eight flags from ``start`` on to ``found``, after ``count`` others; the new count."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flags, start, places, found, count = args
        eight = builder.bitcast(emit_load(builder, flags, start, _BYTES), I64)
        byte = builder.lshr(builder.mul(eight, I64(_GATHER)), I64(56))
        longs = builder.zext(builder.bitcast(emit_load(builder, places, byte, I64), _BYTES), _LONGS)
        emit_store(builder, builder.add(longs, splat(builder, start, _AT_ONCE)), found, count)
        n_bits = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I64, [I64]), "llvm.ctpop.i64")
        return builder.add(count, builder.call(n_bits, [byte]))

    return types.int64(*[types.int64] * 5), codegen


@job(Positions)
def positions_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """One task: where a position is written depends on all flags before it."""
    count = 0
    whole = s.n_flags // _AT_ONCE * _AT_ONCE
    for start in range(0, whole, _AT_ONCE):
        count = _append_eight(s.flags, start, s.places, s.found, count)
    for i in range(whole, s.n_flags):
        if load_flag(s.flags, i):
            store_i64(s.found, count, i)
            count += 1
