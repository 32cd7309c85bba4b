"""Hidden weights: inactive ones that keep their values and go on learning while the network computes without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import StateError
from rigl_lightning.kernels.grouped import GroupedMasks
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.compact_weights import CompactWeight
from rigl_lightning.sparsity.files.masks import pack_masks, unpack_masks
from rigl_lightning.sparsity.gradients import are_gradients_finite, gradients_of
from rigl_lightning.sparsity.network_masks import NetworkMasks
from rigl_lightning.sparsity.plain_state import plain_state
from rigl_lightning.sparsity.weights import Weights


class HiddenWeights(Weights):
    """All weights of the sparse layers, of which the parameters show the active ones only.

    The optimizer works on all weights: `before_step` puts them into the parameters, `after_step` takes them out.
    Whoever reads the parameters at any other time, a forward pass or a checkpoint, sees the sparse network.

    Args:
        parameters: Sparse weights by name; their present values are the first hidden weights.
        network: Their masks.
        compact: None are.

    Attributes:
        weights: All weights by name, never masked.
        holds_all: Whether the parameters hold all weights now.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], network: NetworkMasks, compact: Mapping[str, CompactWeight]
    ) -> None:
        super().__init__(parameters, network, compact)
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.holds_all = False
        self._set_learning(None)

    @property
    def learning(self) -> dict[str, Tensor] | None:
        """Masks of the weights that learn, inactive ones among them, or None if all do. Others stay as they are."""
        return self._learning

    def _set_learning(self, masks: dict[str, Tensor] | None) -> None:
        self._learning = masks
        self._grouped = GroupedMasks(masks or {})
        self._density = {name: count_active(mask) / mask.numel() for name, mask in (masks or {}).items()}

    def learning_density(self) -> dict[str, float]:
        """Fraction of each layer's weights that learn."""
        return dict(self._density) if self._learning else dict.fromkeys(self.weights, 1.0)

    def of(self, name: str) -> Tensor:
        """All weights of a layer."""
        return self.weights[name]

    def mask_gradients(self) -> None:
        """Set the gradients of weights that do not learn to zero."""
        grads = {name: self._parameters[name].grad for name in self._learning or {}}
        self._grouped.zero_inactive_({name: grad for name, grad in grads.items() if grad is not None})

    def before_step(self, optimizer: Optimizer) -> None:
        """The inactive weights into the parameters, unless a GradScaler is going to skip the step."""
        # A GradScaler skips a step whose gradients overflowed, and nobody would hide the weights again.
        if gradients_of(optimizer) and are_gradients_finite(optimizer):
            self.swap_in_all()

    def swap_in_all(self) -> None:
        """The inactive weights into the parameters.

        Active ones stay as they are there, so that what a user made of them (clipping, other weights loaded between
        two fits) holds.

        Raises:
            RuntimeError: If they are there already.
        """
        if self.holds_all:
            raise StateError(
                "Expected one evaluation of the loss for each optimizer step, got a second: the inactive weights of "
                "this algorithm would take part in it. Use an optimizer without line search or repeated closures "
                "(not LBFGS or SAM), and do not leave out optimizer.step."
            )
        for name, weight in self.weights.items():
            parameter = self._parameters[name]
            if weight.dtype != parameter.dtype:  # the module was converted, as by a second fit in another precision
                weight = self.weights[name] = weight.to(parameter.dtype)
            torch.where(self._network.masks[name], parameter, weight, out=parameter)
        self.holds_all = True

    def after_step(self) -> None:
        """Keep what the optimizer made of the weights that learn, before anyone asks for them."""
        if not self.holds_all:
            return
        for name, weight in self.weights.items():
            parameter = self._parameters[name]
            if self._learning is None:
                weight.copy_(parameter)
            else:
                torch.where(self._learning[name], parameter, weight, out=weight)
        self.holds_all = False

    def follow_update(self, learning_masks: Callable[[], dict[str, Tensor] | None]) -> None:
        """What is active now is shown, what is inactive hidden."""
        for name, weight in self.weights.items():
            self._parameters[name].copy_(weight)
        self._set_learning(learning_masks())
        self.apply_masks()

    def apply_masks(self) -> None:
        """Hide the weights of inactive connections; also those that a step which failed has left behind."""
        self.after_step()
        super().apply_masks()

    def reset_inactive_state(self, optimizer: Optimizer) -> None:
        """Nothing: the state of inactive weights is theirs."""

    def state_dict(self) -> dict[str, Any]:
        """Plain CPU tensors."""
        learning = None if self._learning is None else pack_masks(self._learning)
        return {"hidden": {"weights": plain_state(self.weights), "learning": learning}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What an earlier `state_dict` returned, for the same parameters."""
        for name, weight in state["hidden"]["weights"].items():
            self.weights[name].copy_(weight)
        if state["hidden"]["learning"] is not None:
            masks = unpack_masks(state["hidden"]["learning"])
            self._set_learning({name: mask.to(self.weights[name].device) for name, mask in masks.items()})


class ForgottenWeights(HiddenWeights):
    """Hidden weights that become zero at an update if they are inactive then, and learn from there."""

    def follow_update(self, learning_masks: Callable[[], dict[str, Tensor] | None]) -> None:
        """As in the base, for what is active now; the rest is forgotten."""
        for name, mask in self._network.masks.items():
            self.weights[name].masked_fill_(~mask, 0)
        super().follow_update(learning_masks)


def kind_of_weights(algorithm: SparseAlgorithm) -> type[Weights]:
    """How the inactive weights of an algorithm are kept."""
    if not algorithm.hides_inactive_weights:
        return Weights
    return ForgottenWeights if algorithm.forgets_inactive_weights else HiddenWeights
