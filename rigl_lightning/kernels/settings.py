"""Settings of a compiled job: named once, packed by code, and every tensor checked before its address is taken.

A job's settings are a `NamedTuple` whose annotations say what its fields are: `Floats`, `Bfloats`, `Ints`, `Longs` and
`Flags` are tensors, ``int`` and ``float`` numbers. Each fills one slot of 64 bits, in order. No other file of this
package reads the address of a tensor.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeAlias, get_args, get_type_hints

import torch
from torch import Tensor, nn


class Place(NamedTuple):
    """Memory of a tensor from one element on, whose strides the settings tell.

    Attributes:
        tensor: Need not be contiguous.
        start: In elements, from its first one.
    """

    tensor: Tensor
    start: int = 0


class Late(NamedTuple):
    """An address that is known at the call only; 0 if there is no such tensor then.

    Attributes:
        of: Name of the tensor.
        start: In elements, from its first one.
    """

    of: str
    start: int = 0


Operand: TypeAlias = Tensor | Place | Late | None
Floats: TypeAlias = Annotated[Operand, torch.float32]
Bfloats: TypeAlias = Annotated[Operand, torch.bfloat16]
Ints: TypeAlias = Annotated[Operand, torch.int32]
Longs: TypeAlias = Annotated[Operand, torch.int64]
Flags: TypeAlias = Annotated[Operand, torch.bool]

FIRST = 2
"""Slots before the settings: the number of tasks, and how many were taken."""


def packed(n_tasks: int, settings: Any) -> array[int]:
    """Slots of a job: tasks, tasks taken, settings. The caller keeps the tensors alive. `Late` addresses are 0.

    Raises:
        ValueError: If a tensor is not what its field says, see `address`.
    """
    slots: list[Any] = [n_tasks, 0, *settings]
    of: Any = type(settings)
    operands, floats = _slots(of)
    for slot, dtype in operands:
        slots[slot] = address(slots[slot], dtype)
    for slot in floats:
        slots[slot] = struct.unpack("q", struct.pack("fxxxx", slots[slot]))[0]
    return array("q", slots)


def address(operand: Any, dtype: torch.dtype) -> int:
    """Address of a tensor's memory; 0 for None and `Late`.

    Raises:
        ValueError: If the memory does not hold the values: of another dtype or device, with gaps, or a view that torch
            negates when it is read.
    """
    kind = type(operand)
    if (
        (kind is Tensor or kind is nn.Parameter)
        and operand.dtype is dtype
        and operand.is_cpu
        and operand.is_contiguous()
        and not operand.is_neg()
    ):
        found: int = operand.data_ptr()  # the usual case first: a few hundred nanoseconds count here
        if found:
            return found
    if operand is None or kind is Late:
        return 0
    tensor, start = operand if kind is Place else (operand, 0)
    found = tensor.data_ptr() if tensor.is_cpu else 0
    if (
        tensor.dtype is not dtype
        or tensor.is_neg()
        or not (kind is Place or tensor.is_contiguous())
        or not (found or not tensor.numel())
    ):
        raise ValueError(
            f"Expected {dtype} on the CPU, its values side by side in memory, got {tensor.dtype} on {tensor.device} of "
            f"shape {tuple(tensor.shape)} and strides {tensor.stride()}."
        )
    return found + start * dtype.itemsize if start else found


def addresses_of_checked(tensors: Sequence[Tensor], dtype: torch.dtype) -> array[int]:
    """`address` of plain tensors of which the caller knows that they lie in memory without gaps, in any order of axes.

    Raises:
        ValueError: If the memory of one has been freed.
    """
    found = [tensor.data_ptr() for tensor in tensors]
    return array("q", found if all(found) else [address(Place(tensor), dtype) for tensor in tensors])


def addresses_of(
    operands: Mapping[str, Tensor | None], dtypes: Mapping[str, torch.dtype] | None = None
) -> dict[str, int]:
    """`address` of tensors by name; float32 where ``dtypes`` does not name another."""
    dtypes = dtypes or {}
    return {name: address(tensor, dtypes.get(name, torch.float32)) for name, tensor in operands.items()}


def readable(tensor: Tensor) -> Tensor:
    """The tensor as `address` takes it: its values side by side in memory, copied where they are not."""
    return resolved(tensor).contiguous()


def resolved(tensor: Tensor) -> Tensor:
    """The tensor with its values in memory as they are read, at any strides."""
    return tensor.resolve_neg() if tensor.is_neg() else tensor


@cache
def fields_of(settings: Any) -> dict[str, Any]:
    """By name: ``int``, ``float``, or the dtype of a tensor."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: get_args(hint)[-1] if hint not in (int, float) else hint for name, hint in hints.items()}


@cache
def _slots(settings: Any) -> tuple[list[tuple[int, torch.dtype]], list[int]]:
    """Slots of the tensors with their dtypes, and those of the fractional numbers."""
    kinds = list(enumerate(fields_of(settings).values(), FIRST))
    return [(i, kind) for i, kind in kinds if kind not in (int, float)], [i for i, kind in kinds if kind is float]
