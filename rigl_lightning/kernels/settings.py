"""Settings of a compiled job: named once, packed by code, and every tensor checked before its address is taken.

A job's settings are a `NamedTuple` whose annotations say what its fields are: `Floats`, `Ints`, `Longs` and `Flags` are
tensors, ``int`` and ``float`` numbers. Each fills one slot of 64 bits, in order. No other file of this package reads
the address of a tensor.
"""

from __future__ import annotations

import struct
from array import array
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeAlias, get_args, get_type_hints

import torch
from torch import Tensor


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
        start: In float32 elements, from its first one.
    """

    of: str
    start: int = 0


Operand: TypeAlias = Tensor | Place | Late | None
Floats: TypeAlias = Annotated[Operand, torch.float32]
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
    slots = array("q", (n_tasks, 0))
    of: Any = type(settings)
    for value, kind in zip(settings, _kinds(of), strict=True):
        if kind is int:
            slots.append(value)
        elif kind is float:
            slots.append(struct.unpack("q", struct.pack("fxxxx", value))[0])
        else:
            slots.append(address(value, kind))
    return slots


def address(operand: Operand, dtype: torch.dtype) -> int:
    """Address of a tensor's memory; 0 for None and `Late`.

    Raises:
        ValueError: If the memory does not hold the values: of another dtype or device, with gaps, or a view that torch
            negates when it is read.
    """
    if operand is None or isinstance(operand, Late):
        return 0
    tensor, start = operand if isinstance(operand, Place) else (operand, 0)
    has_gaps = not isinstance(operand, Place) and not tensor.is_contiguous()
    found = tensor.data_ptr() if tensor.is_cpu else 0
    if tensor.dtype is not dtype or tensor.is_neg() or has_gaps or (not found and tensor.numel()):
        raise ValueError(
            f"Expected {dtype} on the CPU, its values side by side in memory, got {tensor.dtype} on {tensor.device} of "
            f"shape {tuple(tensor.shape)} and strides {tensor.stride()}."
        )
    return found + tensor.element_size() * start


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
def _kinds(settings: Any) -> tuple[Any, ...]:
    return tuple(fields_of(settings).values())
