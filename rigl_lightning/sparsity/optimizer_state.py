"""Optimizer state of single connections: what belongs to one that was dropped must not reach one that is grown.

It is reset (`reset_state`) before the first step and at mask updates only. In between the gradient of an inactive
connection is zero, and so is its weight: momenta that start at zero stay there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError

_Start = Callable[[dict[str, Any], Tensor], float | Tensor]


def _weight(group: dict[str, Any], weight: Tensor) -> Tensor:
    return weight


def _zero(group: dict[str, Any], weight: Tensor) -> float:
    return 0.0


# State that does not start at zero: (class or base class of the optimizer, key) -> its start, from the parameter's
# group and its value at the moment.
_STARTS: dict[tuple[str, str], _Start] = {
    ("Adagrad", "sum"): lambda group, weight: group["initial_accumulator_value"],
    ("ASGD", "ax"): _weight,
    ("Rprop", "step_size"): lambda group, weight: float(group["lr"]),
    # timm: as in TensorFlow, ones; the starting point; the slow weights, kept in the state of the wrapped optimizer.
    ("RMSpropTF", "square_avg"): lambda group, weight: 1.0,
    ("MADGRAD", "x0"): _weight,
    ("Optimizer", "lookahead_slow_buff"): _weight,
}

# Numbers that all connections of a parameter share and that do not start at zero: products of momenta (NAdam).
_STARTS_OF_SHARED = {"mu_product": 1, "m_schedule": 1}
_COUNTERS_OF_GROUPS = ("step", "lookahead_step")  # timm's LAMB and Adan, Lookahead


def group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """Parameter group that holds the parameter, or None."""
    return next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)


def learning_rates(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Learning rate of each parameter that the optimizer has, by name."""
    groups = {name: group_of(optimizer, parameter) for name, parameter in parameters.items()}
    return {name: float(group["lr"]) for name, group in groups.items() if group is not None}


def check_owner(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse an optimizer that does not have all sparse weights.

    Raises:
        ValueError: Naming the first that is missing.
    """
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in owned]
    if missing:
        raise SettingError(
            f"Expected an optimizer of all sparse weights, but {type(optimizer).__name__} does not have "
            f"{missing[0]!r} ({len(missing)} of {len(parameters)} weights). Were they replaced since the "
            "Sparsifier was made (load_state_dict(assign=True), a copy of the model, a new head), or are there two "
            "optimizers? Make the Sparsifier of the weights that this optimizer trains."
        )


def with_wrapped(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer, and those it wraps (Lookahead, SAM) and calls, outermost first; each once.

    >>> class Wrapper(Optimizer):
    ...     def __init__(self, base):
    ...         super().__init__(base.param_groups, {})
    ...         self.base = base
    >>> from torch.optim import SGD
    >>> [type(found).__name__ for found in with_wrapped(Wrapper(SGD([nn.Parameter(Tensor(2))])))]
    ['Wrapper', 'SGD']
    """
    found = [optimizer]
    for single in found:  # it grows meanwhile
        for value in vars(single).values():
            if isinstance(value, Optimizer) and all(value is not other for other in found):
                found.append(value)
    return found


def reset_state(optimizer: Optimizer, parameter: nn.Parameter, where: Tensor, at: Tensor | None = None) -> None:
    """Set all state of some connections (momenta, second moments, ...) to what it is before the first step.

    State of single connections is recognised as in `state_tensors`, also in optimizers that this one wraps. What is
    shared among connections stays: step counts (a grown connection is not bias-corrected again, as in the reference),
    factored second moments (Adafactor), preconditioners and what goes with them. So do the norms and means that some
    optimizers take over a whole layer, inactive zeros included (LAMB, LARS, Muon; timm's cautious variants step further
    by up to 1 / density). A grown connection's first step is not a fresh one's where the first step of the training is
    an exception: ADOPT, Adan, SGD with dampening.

    Args:
        optimizer: Any.
        parameter: The layer's weights, with the values that the connections start from.
        where: Boolean, of the parameter's shape: the connections.
        at: Their positions, if they are few and known: saves reading all.
    """
    for single in with_wrapped(optimizer):
        group = group_of(single, parameter) or {}
        for key, value in state_tensors(single, parameter):
            start = start_of(single, key)(group, parameter)
            if isinstance(start, Tensor):
                value[where.to(value.device)] = start.detach()[where].to(value)
            else:
                set_at(value, where, start, at)


def restart(optimizer: Optimizer) -> None:
    """Set state to what it is before the first step, step counts too; preconditioners stay, see `reset_state`."""
    for single in with_wrapped(optimizer):
        for group in single.param_groups:
            _restart_numbers(group, _COUNTERS_OF_GROUPS)
        for parameter, state in single.state.items():
            if isinstance(parameter, Tensor):
                elementwise = [key for key, _ in state_tensors(single, parameter)]
                _restart_numbers(state, [key for key in state if key not in elementwise])
    for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
        reset_state(optimizer, parameter, torch.ones_like(parameter, dtype=torch.bool))


def _restart_numbers(values: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        value, start = values.get(key), _STARTS_OF_SHARED.get(key, 0)
        if isinstance(value, Tensor) and value.ndim == 0:
            value.fill_(start)  # in place: a CUDA graph may hold it
        elif isinstance(value, int | float) and not isinstance(value, bool):
            values[key] = type(value)(start)


def set_at(tensor: Tensor, where: Tensor, value: float, at: Tensor | None = None) -> None:
    """Set elements of a tensor, chosen by a boolean of its shape, in place; ``at`` as in `reset_state`."""
    if at is not None and tensor.is_contiguous() and tensor.device == at.device:
        tensor.view(-1).index_fill_(0, at, value)
    else:
        tensor.masked_fill_(where.to(tensor.device), value)


def starts_from_a_number(optimizer: Optimizer, key: str) -> bool:
    """Whether this state starts at a number other than zero, so that it need not be zero at inactive connections.

    >>> from torch.optim import SGD, Adagrad
    >>> weight = nn.Parameter(Tensor(2))
    >>> starts_from_a_number(Adagrad([weight]), "sum"), starts_from_a_number(SGD([weight]), "momentum_buffer")
    (True, False)
    """
    return start_of(optimizer, key) not in (_zero, _weight)


def start_of(optimizer: Optimizer, key: str) -> _Start:
    """What a state tensor begins with: a function of the parameter's group and its value."""
    names = (kind.__name__ for kind in type(optimizer).__mro__)
    return next((_STARTS[name, key] for name in names if (name, key) in _STARTS), _zero)


def state_tensors(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """State with an entry for each connection, by key: the tensors of the parameter's shape.

    Beside matrices that mix connections (Shampoo's preconditioners, SOAP's eigenbases) it is a momentum only. Others
    may be those of mixed gradients, as SOAP's second moments are, or such a matrix of a square weight.

    >>> weight = nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = torch.optim.Adam([weight])
    >>> optimizer.state[weight] = {"step": 3, "exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(2, 2)}
    >>> [key for key, _ in state_tensors(optimizer, weight)]
    ['exp_avg', 'exp_avg_sq']
    >>> optimizer.state[weight]["Q"] = [torch.eye(2), torch.eye(2)]
    >>> [*state_tensors(optimizer, weight)]
    []
    """
    state = optimizer.state.get(parameter, {})
    is_mixed = any(_mixes_connections(key, value, parameter) for key, value in state.items())
    for key, value in state.items():
        is_known = key == "momentum_buffer" if is_mixed else key not in ("step", *_STARTS_OF_SHARED)
        if is_known and isinstance(value, Tensor) and value.shape == parameter.shape:
            yield key, value


def _mixes_connections(key: str, value: Any, parameter: Tensor) -> bool:
    """Whether it is a matrix between the rows or columns of a weight, or a list of some."""
    if "precond" in key:
        return True
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return False
    inner = value if isinstance(value, list | tuple) else [value]
    sizes = [tensor.shape for tensor in inner if isinstance(tensor, Tensor) and tensor.ndim == 2]
    return any(rows == columns and rows in parameter.shape for rows, columns in sizes)
