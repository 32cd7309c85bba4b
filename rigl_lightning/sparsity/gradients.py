"""The gradients that an algorithm reads: those of inactive connections too, their averages, Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import StateError
from rigl_lightning.kernels.grouped import all_finite, average_in_
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.compact_weights import CompactWeights
from rigl_lightning.sparsity.plain_state import plain_state

Mean = Callable[[Tensor], Tensor]
"""Averages a tensor over all processes, in place or not."""


class Gradients:
    """Gradients of the sparse weights as backward left them, and what is kept of them from one moment to another.

    Args:
        parameters: Sparse weights by name.
        compact: Those that hold their active connections only; their layers hand over dense gradients.

    Attributes:
        averages: Exponential averages of the dense gradients, by name, in float32.
        kept: Dense gradients of this step, for an update that follows the gradient step.
        hessian: Products of the loss's Hessian and gradient at this step, by name.
        are_there: Whether the optimizer has any gradient to step by.
        used: Names of the layers that have a gradient at this step; before the first step all.
        overflowed: Names of the layers whose gradients are not finite, and kept an update from being made; none if it
            was that of another parameter. None if no update was.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], compact: CompactWeights) -> None:
        self._parameters = parameters
        self._compact = compact
        self.averages: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.hessian: dict[str, Tensor] = {}
        self.are_there = False
        self.used = {*parameters}
        self.overflowed: list[str] | None = None

    def begin_step(self, optimizer: Optimizer, average_decay: float | None) -> None:
        """Look at the gradients that the optimizer is about to use, and average them in if there is a decay."""
        groups = optimizer.param_groups
        self.are_there = any(parameter.grad is not None for group in groups for parameter in group["params"])
        self.used = {*self.of_parameters(), *self._compact.gradients, *self._compact.updates}
        self.overflowed = None
        if not self.are_there:
            self.clear()  # the step is skipped
        if average_decay is not None:
            self.add_to_averages(average_decay)

    def refuse_unseen(self) -> None:
        """The optimizer has stepped without gradients, as far as is known.

        Raises:
            RuntimeError: If there are some.
        """
        if self.of_parameters():
            raise StateError(
                "Expected `before_step` before every optimizer.step. In Lightning's manual optimization, step the "
                "optimizers of self.optimizers(), without use_pl_optimizer=False."
            )

    def of_parameters(self) -> dict[str, Tensor]:
        """Gradients of the parameters as they are stored; one that the batch did not use has none."""
        return {name: p.grad for name, p in self._parameters.items() if p.grad is not None}

    def dense(self) -> dict[str, Tensor]:
        """Gradients of all connections by name, of the layers that have them.

        Raises:
            RuntimeError: If a compact layer has a gradient of its values alone.
        """
        if not self._compact:
            return self.of_parameters()
        self._compact.refuse_values_alone()
        own = {name: grad for name, grad in self.of_parameters().items() if name not in self._compact}
        both = {**own, **self._compact.gradients}
        return {name: both[name] for name in self._parameters if name in both}

    def are_usable(self, algorithm: SparseAlgorithm, step: int, optimizer: Optimizer) -> bool:
        """Whether masks can be updated by them: all of the optimizer are finite. If not, `overflowed` says where.

        Raises:
            RuntimeError: See `check_hessian_products`.
        """
        dense = self.dense()
        pieces = [name for name, update in self._compact.updates.items() if not update.is_finite]
        # Those of dense weights count, too: a GradScaler skips the step for them.
        if pieces or not are_gradients_finite(optimizer) or not all_finite(self._compact.gradients.values()):
            self.overflowed = pieces + [name for name, grad in dense.items() if not all_finite([grad])]
            self.clear()  # this step will be skipped, and its products are not those of the next
        elif algorithm.needs_hessian_gradient(step):
            self.check_hessian_products(step, type(algorithm).__name__)
        return self.overflowed is None

    def keep(self) -> None:
        """Keep the gradients of now until `clear`, unless one is infinite: then `overflowed` says where."""
        dense = self.dense()
        if not all_finite(dense.values()):
            self.overflowed = [name for name, grad in dense.items() if bool(grad.isinf().any())] or None
        # Those of compact weights are not in the parameters, and nobody masks them.
        kept = {} if self.overflowed else dense
        self.kept = {name: grad if name in self._compact else grad.clone() for name, grad in kept.items()}

    def clear(self) -> None:
        """Forget what belongs to one step."""
        self.kept, self.hessian = {}, {}

    def add_to_averages(self, decay: float) -> None:
        """Average the gradients of now in, unless one is not finite: ``m = decay · m + (1 - decay) · g``."""
        dense = self.dense()
        missing = [name for name in dense if name not in self.averages]
        if missing and not all_finite(dense.values()):
            return
        self.averages |= {name: torch.zeros_like(dense[name], dtype=torch.float32) for name in missing}
        average_in_([self.averages[name] for name in dense], [*dense.values()], decay)

    def add_hessian_products(self, loss: Tensor, mean_over_ranks: Mean | None, algorithm: str) -> None:
        """Add the products for this loss to those of the losses before it; arguments as `Sparsifier.before_backward`.

        Raises:
            RuntimeError: If the network cannot be differentiated twice.
        """
        try:
            products = _hessian_products(loss, self._parameters, mean_over_ranks or (lambda tensor: tensor))
        except RuntimeError as error:
            raise StateError(
                f"Expected a network that can be differentiated twice, as {algorithm} needs, got: "
                f"{error} Leave out torch.compile, cuDNN's recurrent layers and fused attention, or set another "
                "algorithm, such as SNIP."
            ) from error
        for name, product in products.items():
            earlier = self.hessian.get(name)
            self.hessian[name] = product if earlier is None else earlier + product

    def check_hessian_products(self, step: int, algorithm: str) -> None:
        """Refuse to go on without finite products.

        Raises:
            RuntimeError: If there are none, or one is not finite.
        """
        if not self.hessian:
            raise StateError(
                f"Expected `before_backward(loss)` before loss.backward() at step {step}: {algorithm} reads the "
                "product of the loss's Hessian and gradient. Add the call to the training loop; "
                "SparseTrainingCallback makes it by itself."
            )
        if not all_finite(self.hessian.values()):
            raise StateError(
                f"Expected a finite product of the loss's Hessian and gradient for {algorithm}, got an overflow. Set "
                "`precision` of the Trainer to 32-true or bf16-mixed."
            )

    def state_dict(self) -> dict[str, Any]:
        """The averages, as CPU tensors; all else lasts no longer than a step."""
        return {"grad_averages": plain_state(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What an earlier `state_dict` returned."""
        averages = state["grad_averages"].items()
        self.averages = {name: average.to(self._parameters[name].device, copy=True) for name, average in averages}


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    """All gradients that the optimizer is about to use."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def are_gradients_finite(optimizer: Optimizer) -> bool:
    """Whether all of `gradients_of` are: a GradScaler skips the step otherwise."""
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in gradients_of(optimizer)]
    return all_finite(torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad for grad in dense)


def for_scores(tensor: Tensor) -> Tensor:
    """The tensor in a precision that ranks: half precision has so few values that most scores would be ties."""
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


def _hessian_products(loss: Tensor, parameters: Mapping[str, nn.Parameter], mean_over_ranks: Mean) -> dict[str, Tensor]:
    """Product of the loss's Hessian with its gradient, of each layer, by differentiating twice."""
    zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}
    weights = [p for p in parameters.values() if p.requires_grad]  # Lightning's toggle_optimizer freezes the others'
    if not weights:
        return zeros
    gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    # The Hessian of the mean loss times the gradient of the mean loss, of which this process has its part. All
    # processes have to ask for the same means, also where the batch of one did not use a layer.
    own = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]
    means = [mean_over_ranks(gradient.detach().clone()) for gradient in own]
    curved = [(gradient * mean).sum() for gradient, mean in zip(own, means, strict=True) if gradient.requires_grad]
    products: dict[int, Tensor] = {}
    if curved:  # a loss that is linear in the weights has no curvature
        found = torch.autograd.grad(torch.stack(curved).sum(), weights, retain_graph=True, allow_unused=True)
        products = {id(weight): value for weight, value in zip(weights, found, strict=True) if value is not None}
    return {name: mean_over_ranks(products.get(id(p), zeros[name]).detach()) for name, p in parameters.items()}
