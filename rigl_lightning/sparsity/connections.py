"""Connections: what an algorithm and its scores may see of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.layouts import InputsFirst


@dataclass(frozen=True)
class Connections:
    """What a score may see of one layer. All tensors have the weight's shape and are not to be changed.

    Attributes:
        weight: Weights; zero at inactive connections, unless the algorithm hides those (`hides_inactive_weights`).
        mask: Boolean, True where a connection is active.
        generator: CPU generator of this layer and step.
        dense_grad: Gradient of the loss at all connections, or None if the algorithm does not ask for it.
        dense_grad_average: Exponential average of the dense gradients, or None if the algorithm keeps none.
        hessian_gradient: Product of the loss's Hessian and its gradient, or None if the algorithm does not ask for it.
        inputs_first: Whether the tensors are (in, out, *kernel) instead of (out, in, *kernel), see `layouts`.
        is_used: Whether this step has a gradient of the layer. If not, the batch did not use it, or it is frozen, and
            what would be grown does not learn.
    """

    weight: Tensor
    mask: Tensor
    generator: torch.Generator = field(default_factory=torch.Generator)
    dense_grad: Tensor | None = None
    dense_grad_average: Tensor | None = None
    hessian_gradient: Tensor | None = None
    inputs_first: bool = False
    is_used: bool = True

    @property
    def shape(self) -> Sequence[int]:
        """Shape of the weight, as structures and distributions read it."""
        return InputsFirst(self.weight.shape) if self.inputs_first else self.weight.shape

    @property
    def grad(self) -> Tensor:
        """Gradient of the loss at all connections, active or not; a ValueError if there is none."""
        if self.dense_grad is None:
            raise SettingError(
                "This score reads the dense gradient, and there is none: either the algorithm does not ask for it at "
                "this step (see `needs_dense_gradient`), or the loss of this batch did not depend on the layer (leave "
                "the layer out with `exclude` of SparseTrainingCallback, or set a score of the weights alone)."
            )
        return self.dense_grad

    @property
    def grad_average(self) -> Tensor:
        """Exponential average of the dense gradients; a ValueError if the algorithm keeps none."""
        if self.dense_grad_average is None:
            raise SettingError(
                "This score reads an average of dense gradients: set `grad_average_decay`, as SNFS does."
            )
        return self.dense_grad_average
