"""Zeroing inactive connections in the fast tier: one pass over numbers and mask, as fast as filling with zeros."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import F32, I32, WIDTH, Codegen
from rigl_lightning.kernels.settings import Flags, Floats, Place
from rigl_lightning.kernels.threads import run

_BLOCK = 1 << 15
"""Connections of a task: enough that taking it costs nothing."""


def zero_inactive(tensor: Tensor, mask: Tensor) -> None:
    """Clear the bits of a float32 tensor where the mask is False; both lie in memory alike, without gaps."""
    count = tensor.numel()
    run(
        masking_job,
        -(-count // _BLOCK),
        Masking(
            numbers=Place(tensor),
            flags=Place(mask),
            n_numbers=count,
            size=_BLOCK,
        ),
    )


def _keep(lanes: int) -> Any:
    @intrinsic
    def keep(typing_context: Any, numbers: Any, flags: Any, index: Any) -> tuple[Any, Codegen]:
        """``lanes`` float32 numbers from ``index`` become 0 where their one-byte flag is 0, and stay where it is 1."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits, bytes_ = ir.VectorType(I32, lanes), ir.VectorType(ir.IntType(8), lanes)
            place = builder.gep(builder.inttoptr(args[0], F32.as_pointer()), [args[2]])
            place = builder.bitcast(place, bits.as_pointer())
            flag = builder.gep(builder.inttoptr(args[1], ir.IntType(8).as_pointer()), [args[2]])
            flag = builder.load(builder.bitcast(flag, bytes_.as_pointer()), align=1)
            # 0 or 1, so 0 or all bits. Of a comparison LLVM makes a masked store, six times slower on some processors.
            active = builder.neg(builder.zext(flag, bits))
            builder.store(builder.and_(builder.load(place, align=4), active), place, align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    return keep


_keep_vector, _keep_one = _keep(WIDTH), _keep(1)


class Masking(NamedTuple):
    """Settings of `masking_job`."""

    numbers: Floats
    flags: Flags
    n_numbers: int
    size: int


@job(Masking)
def masking_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """``numbers[i] = 0`` where ``flags[i]`` is 0; each task is a block."""
    begin, end = task * s.size, min(s.n_numbers, (task + 1) * s.size)
    vectors = begin + (end - begin) // WIDTH * WIDTH
    for i in range(begin, vectors, WIDTH):
        _keep_vector(s.numbers, s.flags, i)
    for i in range(vectors, end):
        _keep_one(s.numbers, s.flags, i)
