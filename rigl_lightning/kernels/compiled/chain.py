"""Jobs one after the other in one call: in a small layer a call from Python costs as much as the job."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import I64, Codegen, load_i64
from rigl_lightning.kernels.settings import Longs


class Chain(NamedTuple):
    """Settings of `chain_job`.

    Attributes:
        jobs: A row for each job: address of its function, and of its slots.
    """

    jobs: Longs


@intrinsic
def _call(typing_context: Any, function: Any, argument: Any) -> tuple[Any, Codegen]:
    """Call the C function at an address with one int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@job(Chain)
def chain_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """Each task is a job, run to its end; one thread takes them in their order."""
    _call(load_i64(s.jobs, 2 * task), load_i64(s.jobs, 2 * task + 1))
