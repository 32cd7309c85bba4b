"""The weights of the sparse layers as the parameters hold them: dense with zeros, or the active connections only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.kernels.positions import positions
from rigl_lightning.sparsity.compact_weights import CompactWeight, CompactWeights
from rigl_lightning.sparsity.network_masks import NetworkMasks
from rigl_lightning.sparsity.optimizer_state import reset_state
from rigl_lightning.sparsity.packed_masks import unpack_mask


class Weights:
    """Weights that are zero and do not learn where connections are inactive.

    Args:
        parameters: Sparse weights by name.
        network: Their masks.
        compact: Weights that hold their active connections only, from the beginning.

    Attributes:
        compact: Those that do so now.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], network: NetworkMasks, compact: Mapping[str, CompactWeight]
    ) -> None:
        self._parameters = parameters
        self._network = network
        self.compact = CompactWeights(compact)

    @property
    def learning(self) -> Mapping[str, Tensor] | None:
        """Masks of the weights that learn: the active ones. None if all do."""
        return self._network.masks

    def learning_density(self) -> dict[str, float]:
        """Fraction of each layer's weights that learn."""
        return self._network.density()

    def of(self, name: str) -> Tensor:
        """A layer's weight, of the dense shape, as its algorithm sees it."""
        return self.compact[name].dense() if name in self.compact else self._parameters[name]

    def set_to(self, name: str, weight: Tensor) -> None:
        """Give a layer other weights of the dense shape."""
        if name in self.compact:
            self.compact[name].set_to(weight)
        else:
            self._parameters[name].copy_(weight)

    def add_to_gradient(self, name: str, addition: Tensor | None) -> None:
        """Add a tensor of the dense shape, or nothing, to the gradient of a layer that has one."""
        grad = self._parameters[name].grad
        if grad is not None and addition is not None:
            values = self.compact[name].gather(addition) if name in self.compact else addition
            grad.add_(values.to(grad.dtype))

    # ---- one step ----------------------------------------------------------------------------------------------

    def mask_gradients(self) -> None:
        """Set the gradients of connections that do not learn to zero."""
        self._network.zero_inactive_({name: parameter.grad for name, parameter in self._parameters.items()})

    def before_step(self, optimizer: Optimizer) -> None:
        """The optimizer is about to step: nothing to do. Hidden weights go into the parameters here."""

    def after_step(self) -> None:
        """The optimizer has stepped: nothing to do, `apply_masks` comes next. Hidden weights leave the parameters."""

    def follow_update(self, learning_masks: Callable[[], dict[str, Tensor] | None]) -> None:
        """The masks have changed; ``learning_masks`` tells which weights learn from now on."""

    def apply_masks(self) -> None:
        """Set the weights of inactive connections to zero."""
        self._network.zero_inactive_(self._parameters)

    def reset_inactive_state(self, optimizer: Optimizer) -> None:
        """Reset the optimizer's state of connections that do not learn."""
        for name in self._network.masked_layers:
            reset_state(optimizer, self._parameters[name], ~self._network.masks[name])

    # ---- how they are stored -----------------------------------------------------------------------------------

    def store_compactly(self, name: str) -> None:
        """Let a parameter hold its active connections only, see `CompactWeight`; its layer has to compute so."""
        self.compact.add(name, self._parameters[name], self._network.masks[name])
        self._network.store_compactly(name, self.compact[name])

    def store_densely(self, name: str) -> None:
        """Undo `store_compactly`."""
        self._network.store_densely(name)
        self.compact.remove(name)

    def state_dict(self) -> dict[str, Any]:
        """What the parameters do not hold: nothing."""
        return {"hidden": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What an earlier `Sparsifier.state_dict` returned: compact weights move to its masks."""
        for name, weight in self.compact.items():
            packed = state["masks"][name]
            self.compact.take_positions(name, positions(unpack_mask(packed["bits"], packed["shape"])))
            self._network.n_active[name] = weight.n_active
