"""Optimizer state of single connections: what belongs to one that was dropped must not reach one that is grown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

# State that does not start at zero: (optimizer's class, key) -> its start, from the parameter's group.
_STARTS: dict[tuple[str, str], Callable[[dict[str, Any]], float]] = {
    ("Adagrad", "sum"): lambda group: group["initial_accumulator_value"],
    ("Rprop", "step_size"): lambda group: group["lr"],
}


def group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """Parameter group that holds the parameter, or None."""
    return next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)


def reset_state(optimizer: Optimizer, parameter: nn.Parameter, where: Tensor, at: Tensor | None = None) -> None:
    """Set all state of some connections (momenta, second moments, ...) to what it is before the first step.

    State tensors are recognised by their shape, the parameter's; factored second moments are left alone.

    Args:
        optimizer: Any.
        parameter: The layer's weights.
        where: Boolean, of the parameter's shape: the connections.
        at: Their positions, if they are few and known: saves reading all.
    """
    group = group_of(optimizer, parameter) or {}
    for key, value in _state_tensors(optimizer, parameter):
        start = _STARTS.get((type(optimizer).__name__, key), lambda group: 0.0)(group)
        set_at(value, where, start, at)


def set_at(tensor: Tensor, where: Tensor, value: float, at: Tensor | None = None) -> None:
    """Set elements of a tensor, chosen by a boolean of its shape, in place; ``at`` as in `reset_state`."""
    if at is not None and tensor.is_contiguous() and tensor.device == at.device:
        tensor.view(-1).index_fill_(0, at, value)
    else:
        tensor.masked_fill_(where.to(tensor.device), value)


def _state_tensors(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
    for key, value in optimizer.state.get(parameter, {}).items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and parameter.ndim > 0:
            yield key, value
