"""Hidden weights: inactive ones that keep their values and go on learning while the network computes without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import StateError
from rigl_lightning.kernels.grouped import GroupedMasks
from rigl_lightning.sparsity.files.masks import pack_masks, unpack_masks
from rigl_lightning.sparsity.selection import count_active


class HiddenWeights:
    """All weights of the sparse layers, of which the parameters show the active ones only.

    The optimizer works on all weights: `swap_in_all` puts them into the parameters before its step, `hide` takes them
    out after it. Whoever reads the parameters at any other time, a forward pass or a checkpoint, sees the sparse
    network.

    Args:
        parameters: Sparse weights by name; their present values are the first hidden weights.

    Attributes:
        weights: All weights by name, never masked.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.holds_all = False
        self.learning = None

    @property
    def learning(self) -> dict[str, Tensor] | None:
        """Masks of the weights that learn, inactive ones among them, or None if all do. Others stay as they are."""
        return self._learning

    @learning.setter
    def learning(self, masks: dict[str, Tensor] | None) -> None:
        self._learning = masks
        self._grouped = GroupedMasks(masks or {})
        self._density = {name: count_active(mask) / mask.numel() for name, mask in (masks or {}).items()}

    def learning_density(self) -> dict[str, float]:
        """Fraction of each layer's weights that learn."""
        return dict(self._density) if self._learning else dict.fromkeys(self.weights, 1.0)

    def mask_gradients(self) -> None:
        """Set the gradients of weights that do not learn to zero."""
        grads = {name: self._parameters[name].grad for name in self._learning or {}}
        self._grouped.zero_inactive_({name: grad for name, grad in grads.items() if grad is not None})

    def swap_in_all(self, masks: Mapping[str, Tensor]) -> None:
        """Before the optimizer's step: the inactive weights into the parameters.

        Active ones stay as they are there, so that what a user made of them (clipping, other weights loaded between
        two fits) holds.

        Args:
            masks: Those of the active weights.

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
            torch.where(masks[name], parameter, weight, out=parameter)
        self.holds_all = True

    def hide(self) -> None:
        """After the optimizer's step: keep what it made of the weights that learn. Mask the parameters next."""
        for name, weight in self.weights.items():
            parameter = self._parameters[name]
            if self.learning is None:
                weight.copy_(parameter)
            else:
                torch.where(self.learning[name], parameter, weight, out=weight)
        self.holds_all = False

    def copy_all(self) -> None:
        """All weights into the parameters, to be masked by new masks."""
        for name, weight in self.weights.items():
            self._parameters[name].copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """Plain CPU tensors."""
        weights = {name: weight.to("cpu", copy=True) for name, weight in self.weights.items()}
        return {"weights": weights, "learning": None if self.learning is None else pack_masks(self.learning)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What an earlier `state_dict` returned, for the same parameters."""
        for name, weight in state["weights"].items():
            self.weights[name].copy_(weight)
        if state["learning"] is not None:
            masks = unpack_masks(state["learning"])
            self.learning = {name: mask.to(self.weights[name].device) for name, mask in masks.items()}
