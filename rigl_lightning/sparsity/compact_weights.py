"""Compact weights: parameters that hold their active connections only, and optimizer state that goes with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError, StateError
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.positions import positions as flat_positions
from rigl_lightning.sparsity.handed_gradients import HandedGradients
from rigl_lightning.sparsity.optimizer_state import group_of, start_of
from rigl_lightning.sparsity.streamed_growth import StreamedUpdate

ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop", "Rprop", "ASGD")
"""Optimizers of torch.optim that treat every element by itself, so that a vector of some is updated as the whole is."""


class CompactWeight:
    """A weight of which only the active connections are stored.

    The parameter stays the object it is, so optimizers and parameter groups keep it. Its data, its gradient and its
    optimizer state are vectors of (n_active,) in row-major order, until `expand`.

    Args:
        parameter: Dense, contiguous or channels last, on the CPU.
        positions: int64 indices of the active connections in the flattened weight, ascending.

    Attributes:
        parameter: As given.
        shape: Of the dense weight.
        pattern: Its active connections.

    >>> weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> compact = CompactWeight(weight, torch.tensor([0, 3]))
    >>> weight.tolist()
    [1.0, 2.0]
    >>> compact.expand()
    >>> weight.tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """

    def __init__(self, parameter: nn.Parameter, positions: Tensor) -> None:
        self.parameter = parameter
        self.shape = parameter.shape
        self._strides = parameter.stride()
        self.pattern = self._pattern_of(positions)
        parameter.dense_shape = self.shape  # type: ignore[attr-defined]  # for who meets the parameter and looks for it
        grad = None if parameter.grad is None else self.gather(parameter.grad)
        _replace_data(parameter, self.gather(parameter.detach()), grad)

    @property
    def n_active(self) -> int:
        """Number of active connections."""
        return self.pattern.n_active

    def gather(self, dense: Tensor) -> Tensor:
        """Active elements of a tensor of the dense shape, (n_active,)."""
        return dense.reshape(-1).index_select(0, self.pattern.positions)

    def scatter(self, values: Tensor, elsewhere: float = 0.0) -> Tensor:
        """Inverse of `gather`, with one value at all inactive connections. Differentiable."""
        dense = values.new_full((math.prod(self.shape),), elsewhere)
        return dense.index_copy(0, self.pattern.positions, values).view(self.shape)

    def dense(self) -> Tensor:
        """The dense weight as it is now, without history."""
        return self.scatter(self.parameter.detach())

    def positions(self) -> Tensor:
        """int64 indices of the active connections in the flattened weight, ascending."""
        return self.pattern.positions

    def mask(self) -> Tensor:
        """Boolean, of the dense shape."""
        mask = torch.zeros(math.prod(self.shape), dtype=torch.bool)
        mask[self.pattern.positions] = True
        return mask.view(self.shape)

    @torch.no_grad()
    def set_to(self, dense: Tensor) -> None:
        """Take the active elements of a dense weight as values."""
        self.parameter.copy_(self.gather(dense))

    @torch.no_grad()
    def move(self, positions: Tensor, optimizer: Optimizer | None, initial: Tensor | None = None) -> Tensor:
        """Make other connections active: those that stay keep values, gradients and optimizer state.

        Args:
            positions: Of the connections that are active from now on, as in the class.
            optimizer: Of the parameter, if its state is known.
            initial: Dense weight that new connections start from; None for zero.

        Returns:
            Positions of the new connections.
        """
        old, new = self.pattern.positions, positions
        source = torch.searchsorted(old, new).clamp_(max=max(old.numel() - 1, 0))
        stays = old[source] == new if old.numel() else torch.zeros_like(new, dtype=torch.bool)

        def moved(values: Tensor, start: float | Tensor) -> Tensor:
            if not old.numel():
                return torch.full_like(new, 0, dtype=values.dtype) + start
            return torch.where(stays, values[source], start)

        start = 0.0 if initial is None else initial.reshape(-1)[new].to(self.parameter.dtype)
        values = moved(self.parameter.detach(), start)
        for state, key, begin in _state_of(optimizer, self.parameter, self.parameter.shape) if optimizer else ():
            state[key] = moved(state[key], values if begin is None else begin)
        grad = None if self.parameter.grad is None else moved(self.parameter.grad, 0.0)
        self.pattern = self._pattern_of(new)
        _replace_data(self.parameter, values, grad)
        return new[~stays]

    def take_state(self, optimizer: Optimizer) -> None:
        """Gather the state that has the dense shape, such as that of a checkpoint."""
        # At each step: no context of autograd, which takes longer than looking. State has no history.
        for state, key, _ in _state_of(optimizer, self.parameter, self.shape):
            state[key] = self.gather(state[key])

    def dense_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The optimizer's state of all connections, as dense training would have it."""
        return {
            key: self._as_before(self.scatter(state[key], begin or 0.0))
            for state, key, begin in _state_of(optimizer, self.parameter, self.parameter.shape)
        }

    @torch.no_grad()
    def expand(self, optimizer: Optimizer | None = None) -> None:
        """Make the parameter dense again, with its gradient and state; inactive weights are zero."""
        if optimizer is not None and self.parameter in optimizer.state:
            optimizer.state[self.parameter].update(self.dense_state(optimizer))
        grad = None if self.parameter.grad is None else self._as_before(self.scatter(self.parameter.grad))
        _replace_data(self.parameter, self._as_before(self.dense()), grad)
        del self.parameter.dense_shape  # type: ignore[attr-defined]

    def _pattern_of(self, positions: Tensor) -> SparsePattern:
        return SparsePattern.from_positions(positions, self.shape[0], math.prod(self.shape[1:]))

    def _as_before(self, dense: Tensor) -> Tensor:
        """The tensor in the memory format that the parameter had."""
        if dense.stride() == self._strides:
            return dense
        return torch.empty_strided(self.shape, self._strides, dtype=dense.dtype).copy_(dense)


class Beginning(NamedTuple):
    """Layers that are compact from the beginning, with random masks: their dense weights are gone.

    Attributes:
        compact: By layer name.
        checksums: `weight_checksum` of every layer's initial weights.
        masks: First masks of the layers that are not compact.
    """

    compact: dict[str, CompactWeight]
    checksums: dict[str, int]
    masks: dict[str, Tensor]


class SeenBare:
    """Base of what is seen as dense although it is stored as vectors of active values."""

    _is_bare = False

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Within, it is seen as it is stored."""
        self._is_bare = True
        try:
            yield
        finally:
            self._is_bare = False


class CompactWeights(dict[str, CompactWeight], SeenBare):
    """The compact weights of a network by name, and what belongs to one step.

    Attributes:
        gradients: Dense gradients by name that layers have handed over in the backward passes of this step, see
            `HandedGradients`.
        updates: Mask updates that were made of them instead, piece by piece.
    """

    def __init__(self, weights: Mapping[str, CompactWeight] | None = None) -> None:
        super().__init__(weights or {})
        self.gradients = HandedGradients()
        self.updates: dict[str, StreamedUpdate] = {}
        self._passes: dict[str, int] = {}
        self._optimizer: Optimizer | None = None
        self._hook: Any = None

    def add(self, name: str, parameter: nn.Parameter, mask: Tensor) -> None:
        """Make a parameter compact; state that an optimizer has of it follows at its next step."""
        self[name] = CompactWeight(parameter, flat_positions(mask))

    def remove(self, name: str) -> None:
        """Make a parameter dense again, and its state in the optimizer that was followed."""
        self.pop(name).expand(self._optimizer)
        self.gradients.forget(name)
        self.updates.pop(name, None)

    def take_positions(self, name: str, positions: Tensor) -> None:
        """Move a weight to the connections of a checkpoint; what stays active keeps values and optimizer state."""
        self[name].move(positions, self._optimizer)
        self.forget_gradients()

    def follow(self, optimizer: Optimizer) -> None:
        """Keep the optimizer's state compact, its ``state_dict`` dense, and what was handed over as ``grad`` is now.

        Raises:
            ValueError: If it does not treat every element by itself.
        """
        if not self:
            return
        if optimizer is not self._optimizer:
            if not is_elementwise(optimizer):
                raise SettingError(
                    f"Expected an optimizer that updates every element by itself ({', '.join(ELEMENTWISE)}) where only "
                    f"connections are stored, got {type(optimizer).__name__}. Set `storage` of "
                    "SparseTrainingCallback or SparseCompute to dense."
                )
            self._optimizer = optimizer
            if self._hook is not None:
                self._hook.remove()
            self._hook = optimizer.register_state_dict_post_hook(
                lambda own, state: state if self._is_bare else dense_state_dict(own, self.values(), state)
            )
        for name, weight in self.items():
            weight.take_state(optimizer)
            self.gradients.follow(name, weight.parameter, weight.pattern)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy has no optimizer to follow.
        kind, args, _, *rest = tuple(super().__reduce_ex__(protocol))
        return kind, args, {**vars(self), "_optimizer": None, "_hook": None}, *rest

    def goes_on(self, name: str) -> bool:
        """Whether a backward pass, of this moment, adds to what was handed over before; asked once a pass."""
        # A layer may be part of a pass more than once, and several passes may be part of a step. What was before the
        # gradients were last set to None or zero is of a step that was given up.
        this_pass = torch._C._current_graph_task_id()
        grad = self[name].parameter.grad
        is_same = self._passes.get(name) == this_pass
        self._passes[name] = this_pass
        return is_same or (grad is not None and bool(grad.any()))

    def refuse_values_alone(self) -> None:
        """The gradients of inactive connections are read now.

        Raises:
            RuntimeError: If a layer has not handed them over, although its values have a gradient.
        """
        for name, weight in self.items():
            grad = weight.parameter.grad
            if name not in self.gradients and name not in self.updates and grad is not None and grad.any():
                raise StateError(
                    f"Expected the gradient of {name!r} from `backward`, which adds to it, got one that was set in "
                    "another way: of a weight that is stored as connections only it leaves out what a mask update "
                    "reads. Set `storage` of SparseTrainingCallback or SparseCompute to dense."
                )

    def forget_gradients(self) -> None:
        """The step is over, or was taken by a mask update."""
        for name in self:
            self.gradients.forget(name)
        self.updates, self._passes = {}, {}


def is_elementwise(optimizer: Optimizer) -> bool:
    """Whether the optimizer updates every element by itself, as far as is known.

    >>> weight = nn.Parameter(torch.zeros(2, 2))
    >>> is_elementwise(torch.optim.Adam([weight])), is_elementwise(torch.optim.Adafactor([weight]))
    (True, False)
    """
    kind = type(optimizer)
    return kind.__module__.startswith("torch.optim.") and kind.__name__ in ELEMENTWISE


def dense_state_dict(
    optimizer: Optimizer, compact: Iterable[CompactWeight], state_dict: dict[str, Any]
) -> dict[str, Any]:
    """What ``optimizer.state_dict`` returned, with the state of compact weights as dense tensors.

    Args:
        optimizer: As it is now.
        compact: Weights that are compact, among its parameters.
        state_dict: Not changed.
    """
    order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    key_of = dict(zip(order, keys, strict=True))
    state = dict(state_dict["state"])
    for weight in compact:
        key = key_of.get(id(weight.parameter))
        if key in state:
            state[key] = {**state[key], **weight.dense_state(optimizer)}
    return {**state_dict, "state": state}


def _state_of(
    optimizer: Optimizer, parameter: nn.Parameter, shape: torch.Size
) -> Iterator[tuple[dict[str, Any], str, float | None]]:
    """The state tensors of a shape: where they are kept, their keys, and what they begin with, None for the weight."""
    state = optimizer.state.get(parameter, {})
    for key, value in list(state.items()):
        if isinstance(value, Tensor) and value.shape == shape:
            begin = start_of(optimizer, key)(group_of(optimizer, parameter) or {}, parameter)
            yield state, key, None if isinstance(begin, Tensor) else begin


def _replace_data(parameter: nn.Parameter, data: Tensor, grad: Tensor | None) -> None:
    """Give a parameter data of another shape, and their gradient."""
    parameter.grad = None
    # A graph that is still alive, as that of the last loss, keeps the shape that gradients had. Autograd forgets it
    # when the dtype changes.
    parameter.data = torch.empty(0, dtype=torch.float32 if data.dtype == torch.float64 else torch.float64)
    parameter.data = data
    torch.autograd.graph.increment_version(parameter)  # a backward pass over earlier values stops
    parameter.grad = grad
