"""How the weights of a layer are stored while it trains: dense, or as the values of their active connections."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError, SparseTrainingWarning
from rigl_lightning.compute.layers import LayerPatterns
from rigl_lightning.compute.stored_layers import StoredTensors
from rigl_lightning.compute.timed_choice import LARGEST_DENSITY
from rigl_lightning.kernels import available
from rigl_lightning.kernels.stored_types import TakeGradient, dense_weight
from rigl_lightning.sparsity.compact_gradients import taker
from rigl_lightning.sparsity.compact_weights import SeenBare
from rigl_lightning.sparsity.sparsifier import Sparsifier

Storage = Literal["auto", "connections", "dense"]
_KEPT_UP_TO = 1 << 24
"""Weights of the compact layers up to which dense gradients are kept for the step: 64 MB."""


class LayerStorage(SeenBare):
    """Storage of one layer's sparse weights: all compact (see `CompactWeight`), or all dense.

    A weight that is read as an attribute of its module is dense again from the next step on under "auto". Until then,
    and always under "connections", who reads it gets a dense tensor of the moment, which can be differentiated.

    Args:
        sparsifier: Of the weights.
        module: That has them.
        weights: Name in the sparsifier by attribute of the module.
        storage: "connections" wherever possible, "auto" where the layer also computes sparsely, "dense" nowhere.
        why_dense: Why the weights have to be dense, if that is known already.

    Attributes:
        why_dense: Why the weights are stored densely, or "".
    """

    def __init__(
        self,
        sparsifier: Sparsifier,
        module: nn.Module,
        weights: Mapping[str, str],
        storage: Storage,
        why_dense: str = "",
    ) -> None:
        self.sparsifier = sparsifier
        self.module = module
        self.weights = dict(weights)
        self.storage = storage
        self.why_dense = "asked for" if storage == "dense" else why_dense or self._find_refusal()
        self.is_paused = False
        self._was_read = False
        self._copies: dict[str, Tensor] = {}
        self._graph_step = self._dense_step = -1

    @property
    def is_compact(self) -> bool:
        """Whether the weights are compact now."""
        return any(name in self.sparsifier.compact for name in self.weights.values())

    def is_possible(self) -> bool:
        """Whether they can be compact now; asked again when masks change."""
        if (
            self.why_dense
            or self._was_read
            or self.is_paused
            or self._dense_step == self.sparsifier.step
            or self.sparsifier.algorithm.needs_hessian_gradient(self.sparsifier.step)
        ):
            return False
        network, names = self.sparsifier.network, self.weights.values()
        return sum(network.n_active[n] for n in names) <= LARGEST_DENSITY * sum(network.sizes[n] for n in names)

    def compact(self) -> None:
        """Store the active connections only."""
        for name in self.weights.values():
            self.sparsifier.weights.store_compactly(name)
        self._mark_gradients()

    def compact_if_asked(self) -> None:
        """Store the active connections only if that was asked for, whatever is faster."""
        if self.storage == "connections" and not self.is_compact and self.is_possible():
            self.compact()

    def pause(self) -> None:
        """Store dense weights until ``is_paused`` is False again."""
        self.is_paused = True
        self.expand()

    def resume(self) -> None:
        """Store as asked again. Graphs that were made in the pause are over."""
        self.is_paused, self._dense_step = False, -1

    def expand(self, why: str = "") -> None:
        """Store dense weights again."""
        self.why_dense = self.why_dense or why
        for name in self.weights.values():
            if name in self.sparsifier.compact:
                self.sparsifier.weights.store_densely(name)

    def share(self) -> None:
        """Store dense weights from now on, since a scripted module holds the same parameters.

        Raises:
            ValueError: If connections were asked for.
        """
        if self.storage == "connections" and not self.why_dense:
            raise SettingError(
                f"Expected dense weights for torch.jit.script, got {next(iter(self.weights.values()))!r}, of which "
                "connections are stored. Script a copy (copy.deepcopy(module)), or set `storage` of "
                "SparseTrainingCallback or SparseCompute to auto or dense."
            )
        self.expand("torch.jit.script has its weight")

    def note_dense_use(self) -> None:
        """Before dense weights are read: a graph may hold them until the step is over, so until then they stay so."""
        if torch.is_grad_enabled() and not self.is_compact:
            self.compact_if_asked()
            self._dense_step = self.sparsifier.step

    def begin_call(self) -> None:
        """Before each call of the layer: keep track of graphs, and expand what was read since the last step."""
        self._copies = {}
        if self._was_read and self._graph_step != self.sparsifier.step:
            self.expand("its weight was read as a dense tensor")
        self.compact_if_asked()
        if torch.is_grad_enabled():
            self._graph_step = self.sparsifier.step
            self._mark_gradients()

    def tensors(self, names: list[str], patterns: LayerPatterns) -> StoredTensors:
        """The layer's parameters for the kernels, with dense gradients handed on at the steps that read them."""
        tensors = [self.module._parameters.get(name) for name in names]
        shapes = [getattr(tensor, "dense_shape", None) for tensor in tensors]
        takes = [self._taker(name) if torch.is_grad_enabled() else None for name in names]
        return StoredTensors(tensors, shapes, patterns, takes)

    def preview(self, names: list[str], patterns: LayerPatterns) -> StoredTensors:
        """What `tensors` would be, were the weights compact; no dense gradient is handed on."""
        tensors = [self.module._parameters.get(name) for name in names]
        shapes = [t.shape if t is not None and n in self.weights else None for n, t in zip(names, tensors, strict=True)]
        values = [
            tensor.detach().reshape(-1)[pattern.positions].requires_grad_(tensor.requires_grad)
            if tensor is not None and pattern is not None and shape is not None
            else tensor
            for tensor, pattern, shape in zip(tensors, patterns, shapes, strict=True)
        ]
        return StoredTensors(values, shapes, patterns, [None] * len(names))

    # ---- what others see ---------------------------------------------------------------------------------------

    def dense_tensors(self) -> dict[str, Tensor]:
        """Dense weights by attribute, of those that are compact and to be seen as dense."""
        if self._is_bare:
            return {}
        compact = self.sparsifier.compact
        return {a: compact[name].dense() for a, name in self.weights.items() if self._holds(a)}

    def dense_copies(self) -> dict[str, Tensor]:
        """The same for a copy or a pickle, kept until the next call of the layer.

        A spawned process opens the memory of tensors that it gets after the pickler has let go of them.
        """
        self._copies = self.dense_tensors()
        return self._copies

    def read(self, attribute: str) -> Any:
        """What an attribute of the module is to somebody else."""
        if attribute not in self.module._parameters:
            raise AttributeError(attribute)  # somebody has moved it; the module may know where to
        self.note_dense_use()
        if self._is_bare or not self._holds(attribute):
            return self.module._parameters[attribute]
        if self.storage == "auto":
            self._was_read = True
            if self._graph_step != self.sparsifier.step:  # no backward pass is to come
                self.expand("its weight was read as a dense tensor")
                return self.module._parameters[attribute]
        else:
            _warn_of_reading(self.weights[attribute])
        return self.differentiable(attribute)

    def listed(self) -> dict[str, Any]:
        """What ``module.parameters()`` has in the place of compact weights under "auto": what who reads them gets.

        After the backward pass, whose gradients belong to the values, these are shown until the next step.
        """
        self.note_dense_use()
        if self.storage != "auto" or self._is_bare:
            return {}
        is_in_step = self._graph_step == self.sparsifier.step
        if is_in_step and (self.sparsifier.has_dropped_gradients or self._has_new_gradient()):
            self._was_read = True
            return {}
        return {attribute: self.read(attribute) for attribute in self.weights if self._holds(attribute)}

    def _mark_gradients(self) -> None:
        """Before a forward pass: know the gradients of now again."""
        if self.storage == "auto":
            for gradient in self._gradients():
                gradient.seen_at = gradient._version  # type: ignore[attr-defined]

    def _has_new_gradient(self) -> bool:
        """Whether a backward pass has come since the last forward pass."""
        return any(getattr(gradient, "seen_at", None) != gradient._version for gradient in self._gradients())

    def _gradients(self) -> list[Tensor]:
        """Of the compact weights that have one."""
        held = [self.sparsifier.compact[name].parameter for a, name in self.weights.items() if self._holds(a)]
        return [parameter.grad for parameter in held if parameter.grad is not None]

    def differentiable(self, attribute: str) -> Tensor:
        """The dense weight as a function of the values; its gradient is handed on where it is read."""
        weight = self.sparsifier.compact[self.weights[attribute]]
        return dense_weight(weight.parameter, weight.shape, weight.positions(), self._taker(attribute))

    def _taker(self, attribute: str) -> TakeGradient | None:
        """What the dense gradient of a weight is given to."""
        name, network = self.weights.get(attribute, ""), self.sparsifier.network
        if name not in self.sparsifier.compact:
            return None
        keeps = self.storage != "connections" or sum(network.sizes[n] for n in network.compact) < _KEPT_UP_TO
        return taker(self.sparsifier, name, keeps)

    def to_load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What to load in the place of dense weights, by attribute.

        The weights are dense from then on, until the next call, if they have values where nothing is active: the
        Sparsifier may be given their masks next.
        """
        compact = self.sparsifier.compact
        own = {a: compact[self.weights[a]] for a in tensors if self._holds(a) and not self._is_bare}
        own = {a: weight for a, weight in own.items() if tensors[a].shape == weight.shape}
        values = {a: weight.gather(tensors[a]) for a, weight in own.items()}
        if any(int(torch.count_nonzero(tensors[a])) > int(torch.count_nonzero(v)) for a, v in values.items()):
            self.expand()
            return dict(tensors)
        return {**tensors, **values}

    @contextmanager
    def dense_parameters(self) -> Iterator[None]:
        """Within, the module has dense tensors in the place of compact parameters: for torch's own operators."""
        own = {attribute: self.module._parameters[attribute] for attribute in self.weights if self._holds(attribute)}
        module: Any = self.module
        flat = getattr(module, "_flat_weights", None)  # recurrent modules list their parameters once more
        try:
            for attribute in own:
                self.module._parameters[attribute] = self.differentiable(attribute)  # type: ignore[assignment]
            if flat is not None:
                module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]
            yield
        finally:
            self.module._parameters.update(own)
            if flat is not None:
                module._flat_weights = flat

    def _holds(self, attribute: str) -> bool:
        """Whether the module's parameter is the compact one: not where somebody has put another in its place."""
        compact = self.sparsifier.compact.get(self.weights[attribute])
        return compact is not None and self.module._parameters.get(attribute) is compact.parameter

    def _find_refusal(self) -> str:
        reason = _why_algorithm_needs_dense(self.sparsifier)
        if reason:
            return reason
        for name in self.weights.values():
            parameter = self.sparsifier.parameters[name]
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                return "a hook reads the gradient of its weight"
            if parameter.dtype != torch.float32:
                return f"in {str(parameter.dtype).removeprefix('torch.')}"
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return "several processes" if torch.distributed.get_world_size() > 1 else ""
        if available()[0] != "fast" and isinstance(self.module, nn.Conv2d) and self.module.kernel_size != (1, 1):
            return "its convolution needs numba"
        return ""


def _why_algorithm_needs_dense(sparsifier: Sparsifier) -> str:
    algorithm, name = sparsifier.algorithm, type(sparsifier.algorithm).__name__
    if sparsifier.warm_up.is_on:
        return "Adam's warm-up reads single connections"
    if algorithm.hides_inactive_weights:
        return f"the inactive weights of {name} keep their values"
    return "" if algorithm.grad_average_decay is None else f"{name} averages dense gradients"


def _warn_of_reading(name: str) -> None:
    warnings.warn(
        f"{name!r} was read as an attribute of its module, which stores connections only: each reading makes a dense "
        "tensor, and what is written to it is lost. Set `storage` of SparseTrainingCallback to auto or dense.",
        stacklevel=4,
        category=SparseTrainingWarning,
    )
