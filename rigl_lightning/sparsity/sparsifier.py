"""Sparsifier: keeps a model, its gradients and its optimizer true to the masks, in any training loop."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.sparsity.algorithms import SparseAlgorithm, describe
from rigl_lightning.sparsity.mask_files import check_fit, pack_masks, unpack_masks
from rigl_lightning.sparsity.masks import pack_mask
from rigl_lightning.sparsity.names import clean_name
from rigl_lightning.sparsity.scores import Connections


class MaskUpdate(NamedTuple):
    """What one mask update did, over all layers."""

    step: int
    drop_fraction: float
    n_grown: int
    n_active: int

    @property
    def churn(self) -> float:
        """Fraction of the active connections that are new."""
        return self.n_grown / max(self.n_active, 1)


class Sparsifier:
    """Masks of a set of parameters, and everything that has to follow them.

    Weights and gradients are masked in place, so the model stays the plain model: ``state_dict``, optimizer and
    compiled code see ordinary tensors. Inactive weights are zero before the first and after every optimizer step.

    Args:
        parameters: Sparse weights by name, as from `select_parameters`. Put them on their device before.
        algorithm: Which connections are active, and when they change.
        total_steps: Optimizer steps of the whole training; needed if the schedule gives fractions of it.
        seed: Seed of all randomness here: masks and growth depend on (seed, layer name, step) and nothing else.
        state: What an earlier `state_dict` returned, to go on exactly from there; the model's and the optimizer's
            own states may be loaded before or after.

    Attributes:
        masks: Boolean tensor by name, True where a connection is active. Changed in place.
        step: Optimizer steps completed.
        last_update: The most recent mask update, or None.

    Raises:
        ValueError: If settings do not fit the model, or ``state`` fits neither the model nor the algorithm.

    >>> from rigl_lightning.sparsity.algorithms import RigL
    >>> model = nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> sparsifier = Sparsifier({"weight": model.weight}, RigL(sparsity=0.9), total_steps=100)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 20)).square().mean().backward()
    ...     sparsifier.before_step(optimizer)
    ...     optimizer.step()
    ...     sparsifier.after_step(optimizer)
    >>> int(sparsifier.masks["weight"].sum()), int((model.weight[~sparsifier.masks["weight"]] != 0).sum())
    (20, 0)
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        algorithm: SparseAlgorithm,
        total_steps: int | None = None,
        seed: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.seed = seed if state is None else int(state["seed"])
        self.total_steps = total_steps if state is None else state["total_steps"]
        self.algorithm = algorithm.resolve(self.total_steps)
        self.step = 0
        self.last_update: MaskUpdate | None = None
        self._has_gradients = False
        self._kept_gradients: dict[str, Tensor] = {}
        self._grad_averages: dict[str, Tensor] = {}
        if state is None:
            shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
            masks = self.algorithm.initial_masks(shapes, lambda name: self._generator(name, "initial"))
        else:
            masks = self._restore(state)
        self.masks = {
            name: torch.empty_like(parameter, dtype=torch.bool, requires_grad=False).copy_(masks[name])
            for name, parameter in self.parameters.items()
        }
        self._count()
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set the weights of inactive connections to zero."""
        for name in self._sparse:
            self.parameters[name].masked_fill_(~self.masks[name], 0)

    @torch.no_grad()
    def apply_masks_to(self, module: nn.Module) -> None:
        """Set the same connections of a copy of the model to zero, such as an average of its weights.

        Args:
            module: Has parameters of the same names as the model; others are left alone.
        """
        for name, parameter in module.named_parameters():
            mask = self.masks.get(clean_name(name))
            if mask is not None:
                parameter.masked_fill_(~mask.to(parameter.device), 0)

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Call between ``backward`` and ``optimizer.step``, with unscaled, reduced and not yet clipped gradients.

        Masks the gradients. On an update step of an algorithm that replaces the gradient step it updates the masks
        and drops all gradients of ``optimizer`` instead, so that the following ``optimizer.step`` changes nothing.
        No update is made from gradients that are not finite; under a GradScaler, which skips that step, the update
        is made at the next one.

        Args:
            optimizer: The optimizer of the sparse parameters.
        """
        self._has_gradients = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        dense_gradients = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        self._average(dense_gradients)
        update_due = self._has_gradients and self.algorithm.is_update(self.step)
        if self.algorithm.replaces_step and update_due and _all_finite(dense_gradients):
            if self.last_update is None or self.last_update.step != self.step:  # a closure may be evaluated twice
                self._update_masks(optimizer, dense_gradients)
            optimizer.zero_grad(set_to_none=True)
            return
        if update_due and self.algorithm.needs_dense_gradient(self.step) and self.algorithm.grad_average_decay is None:
            self._kept_gradients = {name: grad.clone() for name, grad in dense_gradients.items()}
        self.mask_gradients()

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Call after ``optimizer.step`` has changed the weights, and not if it was skipped (GradScaler).

        Updates the masks on an update step of an algorithm that follows the gradient step, zeroes what leaked into
        inactive connections, and counts the step. A step without any gradient does not count.

        Args:
            optimizer: The optimizer of the sparse parameters.

        Raises:
            RuntimeError: If there are gradients that `before_step` has not seen.
        """
        if not self._has_gradients:
            if any(parameter.grad is not None for parameter in self.parameters.values()):
                raise RuntimeError(
                    "Expected `before_step` before every optimizer.step. In Lightning's manual optimization, step the "
                    "optimizers of self.optimizers(), without use_pl_optimizer=False."
                )
            return
        if not self.algorithm.replaces_step and self.algorithm.is_update(self.step):
            self._update_masks(optimizer, self._kept_gradients)
            self._kept_gradients = {}
        self.apply_masks()
        self._has_gradients = False
        self.step += 1

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of inactive connections to zero."""
        for name in self._sparse:
            grad = self.parameters[name].grad
            if grad is not None:
                # Not a product: zero times an infinite gradient would be NaN.
                grad.masked_fill_(~self.masks[name], 0)

    @torch.no_grad()
    def mask_optimizer_state(self, optimizer: Optimizer) -> None:
        """Zero the optimizer's state of inactive connections, as when momenta of a dense training were loaded."""
        for name in self._sparse:
            _reset_state(optimizer, self.parameters[name], ~self.masks[name])

    def density(self) -> dict[str, float]:
        """Density of each layer, in [0, 1]. Counts masks, not non-zero weights: a grown connection starts at zero."""
        return {name: self.n_active[name] / self.masks[name].numel() for name in self.masks}

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each layer's mask, equal on every process that has the same masks."""
        return {name: zlib.crc32(pack_mask(mask).numpy().tobytes()) for name, mask in self.masks.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs: plain numbers and CPU tensors, masks at one bit a connection."""
        return {
            "masks": pack_masks(self.masks),
            "grad_averages": {name: average.to("cpu", copy=True) for name, average in self._grad_averages.items()},
            "step": self.step,
            "total_steps": self.total_steps,
            "seed": self.seed,
            "algorithm": describe(self.algorithm),
        }

    def _restore(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        masks = unpack_masks(state["masks"])
        remedy = "Set the model, --sparse.include and --sparse.exclude as in the run that is resumed."
        check_fit(masks, {name: parameter.shape for name, parameter in self.parameters.items()}, remedy)
        if describe(self.algorithm) != state["algorithm"]:
            raise ValueError(
                f"Expected the algorithm of the run that is resumed, {state['algorithm']}, "
                f"got {describe(self.algorithm)}. Set --sparse.algorithm as in that run, or start a new run."
            )
        self.step = int(state["step"])
        self._grad_averages = {
            name: average.to(self.parameters[name].device, copy=True)
            for name, average in state["grad_averages"].items()
        }
        return masks

    def _update_masks(self, optimizer: Optimizer, dense_gradients: Mapping[str, Tensor]) -> None:
        layers = {name: self._connections(name, dense_gradients.get(name)) for name in self.parameters}
        new_masks = self.algorithm.update_masks(layers, self.step)
        n_grown = sum(self._install(optimizer, layers[name], name, mask) for name, mask in new_masks.items())
        self._count()
        fraction = self.algorithm.drop_fraction_at(self.step)
        self.last_update = MaskUpdate(self.step, fraction, n_grown, sum(self.n_active.values()))

    def _connections(self, name: str, dense_grad: Tensor | None) -> Connections:
        return Connections(
            weight=_for_scores(self.parameters[name]),
            mask=self.masks[name],
            generator=self._generator(name, str(self.step)),
            dense_grad=None if dense_grad is None else _for_scores(dense_grad),
            dense_grad_average=self._grad_averages.get(name),
        )

    def _install(self, optimizer: Optimizer, layer: Connections, name: str, new_mask: Tensor) -> int:
        """Make ``new_mask`` the layer's mask; returns the number of grown connections."""
        parameter, mask = self.parameters[name], self.masks[name]
        if new_mask is mask:
            return 0
        # A connection that was dropped and grown again keeps its value and its optimizer state, as in the reference
        # (sparse_optimizers_base.py:328-334); every other grown one starts anew.
        survives = mask & new_mask
        grown = new_mask & ~mask
        initial = self.algorithm.grow_init(layer)
        parameter.mul_(survives)
        if initial is not None:
            parameter[grown] = initial[grown].to(parameter.dtype)
        _reset_state(optimizer, parameter, ~survives)
        mask.copy_(new_mask)
        return int(torch.count_nonzero(grown))

    def _average(self, dense_gradients: Mapping[str, Tensor]) -> None:
        decay = self.algorithm.grad_average_decay
        if decay is None or not _all_finite(dense_gradients):
            return
        for name, grad in dense_gradients.items():
            if name not in self._grad_averages:
                self._grad_averages[name] = torch.zeros_like(grad, dtype=torch.float32)
            self._grad_averages[name].mul_(decay).add_(grad, alpha=1 - decay)

    def _count(self) -> None:
        self.n_active = {name: int(torch.count_nonzero(mask)) for name, mask in self.masks.items()}
        # Layers that are dense need no masking.
        self._sparse = [name for name, count in self.n_active.items() if count < self.masks[name].numel()]

    def _generator(self, name: str, step: str) -> torch.Generator:
        # Not Python's hash: it differs between processes.
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}/{step}".encode()))


def _reset_state(optimizer: Optimizer, parameter: nn.Parameter, where: Tensor) -> None:
    """Zero every state tensor of the parameter's shape (momenta, second moments, ...) at the given connections."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(where.to(value.device), 0)


def _all_finite(tensors: Mapping[str, Tensor]) -> bool:
    # The largest magnitude is found in one pass, and is not finite if anything is not.
    return all(bool(torch.linalg.vector_norm(t, torch.inf).isfinite()) for t in tensors.values())


def _for_scores(tensor: Tensor) -> Tensor:
    # Half precision has so few values that most scores would be ties.
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
