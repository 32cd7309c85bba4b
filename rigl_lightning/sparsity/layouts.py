"""Layouts: shapes of weights that are stored inputs first: transformers' ``Conv1D``, transposed convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

MARK = "stored_inputs_first"
"""Attribute of a parameter of shape (in, out, *kernel)."""


class InputsFirst(tuple[int, ...]):
    """Shape (in, out, *kernel) of a weight, such as one that is used as ``x @ weight``; a plain shape is (out, in).

    >>> outputs_first(InputsFirst((4, 12))), outputs_first((12, 4)), outputs_first(InputsFirst((4, 12, 3, 3)))
    ((12, 4), (12, 4), (12, 4, 3, 3))
    """

    __slots__ = ()


def outputs_first(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as torch's own layers have it: (out, in, *kernel)."""
    return (shape[1], shape[0], *shape[2:]) if isinstance(shape, InputsFirst) else tuple(shape)


def is_inputs_first(parameter: nn.Parameter) -> bool:
    """Whether a weight is stored inputs first; `select_parameters` marks those."""
    return hasattr(parameter, MARK)


def copy_of(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter of the same values and layout."""
    copy = nn.Parameter(parameter.detach().clone())
    if is_inputs_first(parameter):
        setattr(copy, MARK, True)
    return copy


def shapes_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Sequence[int]]:
    """Shape of each sparse layer by name, as distributions and structures read it.

    Args:
        parameters: Sparse weights, as from `select_parameters`, which marks those that are stored inputs first.
    """
    shapes = {name: getattr(parameter, "dense_shape", parameter.shape) for name, parameter in parameters.items()}
    return {name: InputsFirst(shape) if is_inputs_first(parameters[name]) else shape for name, shape in shapes.items()}


def rows_are_units(tensor: Tensor, inputs_first: bool) -> Tensor:
    """A view whose first dimension is that of the units (outputs), and its own inverse."""
    return tensor.transpose(0, 1) if inputs_first else tensor


def rows_of(tensor: Tensor) -> Tensor:
    """A tensor whose first dimension is that of the units as (units, inputs); a vector, such as a bias, is one unit."""
    return tensor[None] if tensor.ndim == 1 else tensor.flatten(1)
