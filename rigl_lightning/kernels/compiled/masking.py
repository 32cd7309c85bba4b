"""Zeroing inactive connections in the fast tier: one pass over numbers and mask, as fast as filling with zeros."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import F32, I8, I32, WIDTH, Codegen, load_i64
from rigl_lightning.kernels.settings import Longs, addresses_of_checked, packed
from rigl_lightning.kernels.threads import run_slots

_BLOCK = 1 << 15
"""Connections of a task: enough that taking it costs nothing."""


def zero_inactive(tensor: Tensor, mask: Tensor) -> None:
    """Clear the bits of a float32 tensor where the mask is False; both lie in memory alike, without gaps."""
    MaskedBlocks([mask]).zero_inactive([tensor])


class MaskedBlocks:
    """Masks of several layers, cut into blocks that are tasks of one job: there is one call for all layers.

    Args:
        masks: Boolean, on the CPU, without gaps in memory. They are kept, and may change in place.
    """

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self._masks = masks
        counts = np.array([mask.numel() for mask in masks])
        layers = np.repeat(np.arange(len(counts)), -(-counts // _BLOCK))
        starts = np.concatenate([np.arange(0, count, _BLOCK) for count in counts])
        blocks = np.stack([layers, starts, np.minimum(counts[layers] - starts, _BLOCK)], axis=1)
        self._addresses = array("q", bytes(16 * len(masks)))
        tables = Masking(torch.from_numpy(blocks), torch.frombuffer(self._addresses, dtype=torch.int64))
        self._kept, self._slots = tables, packed(starts.size, tables)

    def zero_inactive(self, tensors: Sequence[Tensor]) -> None:
        """Clear the bits of float32 tensors where the masks are False; each lies in memory as its mask does."""
        # At every call: gradients are new tensors at each step, and memory that is shared with a process moves.
        self._addresses[::2] = addresses_of_checked(tensors, torch.float32)
        self._addresses[1::2] = addresses_of_checked(self._masks, torch.bool)
        n_tasks, self._slots[1] = self._slots[0], 0
        run_slots(masking_job, self._slots.buffer_info()[0], min(torch.get_num_threads(), n_tasks))


def _keep(lanes: int) -> Any:
    @intrinsic
    def keep(typing_context: Any, numbers: Any, flags: Any, index: Any) -> tuple[Any, Codegen]:
        """``lanes`` float32 numbers from ``index`` become 0 where their one-byte flag is 0, and stay where it is 1."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits, bytes_ = ir.VectorType(I32, lanes), ir.VectorType(I8, lanes)
            place = builder.gep(builder.inttoptr(args[0], F32.as_pointer()), [args[2]])
            place = builder.bitcast(place, bits.as_pointer())
            flag = builder.gep(builder.inttoptr(args[1], I8.as_pointer()), [args[2]])
            flag = builder.load(builder.bitcast(flag, bytes_.as_pointer()), align=1)
            # 0 or 1, so 0 or all bits. Of a comparison LLVM makes a masked store, six times slower on some processors.
            active = builder.neg(builder.zext(flag, bits))
            builder.store(builder.and_(builder.load(place, align=4), active), place, align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    return keep


_keep_vector, _keep_one = _keep(WIDTH), _keep(1)


class Masking(NamedTuple):
    """Settings of `masking_job`: tables of int64.

    Attributes:
        blocks: A row for each task: layer, first connection, connections.
        addresses: A row for each layer: of its numbers and of its flags.
    """

    blocks: Longs
    addresses: Longs


@job(Masking)
def masking_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """``numbers[i] = 0`` where ``flags[i]`` is 0; a task is a block."""
    block = s.blocks + 24 * task
    layer, start, count = load_i64(block, 0), load_i64(block, 1), load_i64(block, 2)
    addresses = s.addresses + 16 * layer
    numbers, flags = load_i64(addresses, 0) + 4 * start, load_i64(addresses, 1) + start
    vectors = count // WIDTH * WIDTH
    for i in range(0, vectors, WIDTH):
        _keep_vector(numbers, flags, i)
    for i in range(vectors, count):
        _keep_one(numbers, flags, i)
