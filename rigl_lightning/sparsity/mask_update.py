"""One mask update: what the algorithm chooses is made true of masks, weights and optimizer state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import count_active, positions
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.cautions import why_scores_are_nan
from rigl_lightning.sparsity.compact_weights import CompactWeights
from rigl_lightning.sparsity.dead_units import DeadUnits
from rigl_lightning.sparsity.layouts import is_inputs_first, rows_are_units, rows_of
from rigl_lightning.sparsity.network_masks import Change, NetworkMasks
from rigl_lightning.sparsity.optimizer_state import reset_state, restart, set_at
from rigl_lightning.sparsity.scores import Connections

LayersOf = Callable[[Iterable[str]], dict[str, Connections]]
"""Names of layers -> what an algorithm may see of them."""


class MaskUpdate(NamedTuple):
    """What one mask update did, over all layers.

    Attributes:
        step: Optimizer steps completed before it.
        drop_fraction: Fraction of the active connections it dropped.
        n_grown: Connections that were inactive before and are active now.
        n_grown_blindly: Those of them whose dense gradient was exactly zero, so that position alone chose them: there
            were too few non-zero gradients (dead units, a small batch, underflow).
        n_active: Active connections.
    """

    step: int
    drop_fraction: float
    n_grown: int
    n_grown_blindly: int
    n_active: int

    @property
    def churn(self) -> float:
        """Fraction of the active connections that are new."""
        return self.n_grown / max(self.n_active, 1)

    @property
    def blind_growth(self) -> float:
        """Fraction of the grown connections that position alone chose."""
        return self.n_grown_blindly / max(self.n_grown, 1)


class MaskUpdater:
    """Makes mask updates.

    Args:
        parameters: Sparse weights by name.
        network: Their masks.
        compact: Those that hold their active connections only.

    Attributes:
        grown: Positions of the connections that the last update has grown in layers that are not compact, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], network: NetworkMasks, compact: CompactWeights) -> None:
        self._parameters = parameters
        self._network = network
        self._compact = compact
        self._dead_units = DeadUnits()
        self.grown: dict[str, Tensor] = {}

    def make(
        self, algorithm: SparseAlgorithm, optimizer: Optimizer, layers_of: LayersOf, step: int, memory: dict[str, Any]
    ) -> MaskUpdate:
        """Ask the algorithm for new masks, and let everything follow them.

        Args:
            algorithm: What chooses.
            optimizer: Its state of dropped and grown connections is reset.
            layers_of: What the algorithm may see of some layers; made when it is asked for.
            step: Optimizer steps completed.
            memory: What the algorithm remembers; it may be changed.

        Raises:
            ValueError: If a score is NaN, naming layer and cause.
        """
        names = list(self._parameters)
        # One layer after the other where dense weights and masks have to be made for it.
        alone = algorithm.updates_layers_alone and algorithm.structure.treats_layers_alone and algorithm.ramp is None
        grown: list[tuple[int, int]] = []
        self.grown = {}
        for group in [[name] for name in names] if alone and self._compact else [names]:
            streamed = self._compact.updates.get(group[0])  # drop and grow were made during backward
            if streamed is not None:
                new = self._move(optimizer, group[0], streamed.positions(), None)
                grown.append((new.numel(), streamed.n_grown_blindly()))
                continue
            layers = layers_of(group)
            new_masks = _choose(algorithm, layers, step, memory)
            grown += [self._install(algorithm, optimizer, layers[n], n, mask, step) for n, mask in new_masks.items()]
        if algorithm.restarts_optimizer is not None and algorithm.restarts_optimizer(step):
            restart(optimizer)
        n_grown, n_blindly = (sum(counts) for counts in zip(*grown, strict=True))
        n_active = sum(self._network.n_active.values())
        return MaskUpdate(step, algorithm.drop_fraction_at(step), n_grown, n_blindly, n_active)

    def _install(
        self, algorithm: SparseAlgorithm, optimizer: Optimizer, layer: Connections, name: str, mask: Tensor, step: int
    ) -> tuple[int, int]:
        """Make ``mask`` the layer's mask; returns the numbers of grown and of blindly grown connections."""
        if mask is layer.mask:
            return 0, 0
        if layer.dense_grad is not None or not algorithm.hides_inactive_weights:
            self._dead_units.see_update(name, layer, mask, step)
        if name in self._compact:
            grown = self._move(optimizer, name, positions(mask), _initial(algorithm, layer))
        else:
            change = self._network.change(name, mask)
            if change is None:
                return 0, 0
            if not algorithm.hides_inactive_weights:
                _reset(optimizer, self._parameters[name], change, layer.mask, _initial(algorithm, layer))
            grown = self.grown[name] = self._network.move(name, mask, change)
        n_blindly = 0 if layer.dense_grad is None else count_active(layer.dense_grad.reshape(-1)[grown] == 0)
        return grown.numel(), n_blindly

    def _move(self, optimizer: Optimizer, name: str, active: Tensor, initial: Tensor | None) -> Tensor:
        """Make other connections of a compact layer active; returns the positions of the new ones."""
        grown = self._compact[name].move(active, optimizer, initial)
        self._network.note_moved(name, grown, active.numel())
        return grown

    def see_gradients(self) -> None:
        """Look at the gradients of a step, masked, after an update that read none; see `DeadUnits`."""
        if self._dead_units.is_waiting and not self._network.is_captured:
            self._dead_units.see_gradients(self._gradient_sizes)

    def _gradient_sizes(self, name: str) -> Tensor | None:
        """Mean magnitude of the gradient of each unit's active connections, (units,); None without a gradient."""
        gradient = self._parameters[name].grad
        if gradient is None:
            return None
        size = gradient.float().abs()
        if name in self._compact:
            shape = self._compact[name].shape
            units = self._compact[name].positions() // math.prod(shape[1:])
            return size.new_zeros(shape[0]).index_add_(0, units, size) / units.bincount(minlength=shape[0])
        inputs_first = is_inputs_first(self._parameters[name])
        size, mask = (rows_of(rows_are_units(t, inputs_first)) for t in (size, self._network.masks[name]))
        return size.sum(1) / mask.sum(1)


def _initial(algorithm: SparseAlgorithm, layer: Connections) -> Tensor | None:
    return None if algorithm.grow_init is None else algorithm.grow_init(layer)


def _choose(
    algorithm: SparseAlgorithm, layers: Mapping[str, Connections], step: int, memory: dict[str, Any]
) -> dict[str, Tensor]:
    try:
        return algorithm.update_masks(layers, step, memory)
    except ValueError as error:
        cause = why_scores_are_nan(algorithm, layers, step)
        if cause is None:
            raise
        raise SettingError(cause) from error


def _reset(optimizer: Optimizer, parameter: nn.Parameter, change: Change, mask: Tensor, initial: Tensor | None) -> None:
    """Values and optimizer state of connections that are dropped or grown; ``mask`` is the one before."""
    set_at(parameter, change.where, 0.0, change.at)
    if initial is not None:
        grown = change.where & ~mask
        parameter[grown] = initial[grown].to(parameter.dtype)
    reset_state(optimizer, parameter, change.where, change.at)
