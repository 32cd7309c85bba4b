"""Drop and grow: SET, SNFS and RigL are one algorithm with different scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity import masks, scores
from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.algorithms.constant_sparsity import ConstantSparsity
from rigl_lightning.sparsity.algorithms.planned_counts import planned_counts
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi
from rigl_lightning.sparsity.fan_in import with_minimum_fan_in
from rigl_lightning.sparsity.layouts import rows_are_units
from rigl_lightning.sparsity.ramps import Sparsity
from rigl_lightning.sparsity.schedules import Decay, UpdateSchedule, cosine
from rigl_lightning.sparsity.scores import Connections, Score
from rigl_lightning.sparsity.settings import require
from rigl_lightning.sparsity.structures import Structure, Unstructured, structured_drop_and_grow


@dataclass(frozen=True)
class DropGrow(ConstantSparsity):
    """Drop the connections with the lowest drop score and grow as many with the highest grow score, layer by layer.

    SET, SNFS and RigL are this algorithm with different scores. A method with a user's scores is another example.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1), or a `SparsityRamp`. With a ramp an update also
            drops or grows as many connections as the sparsity changes.
        distribution: How the sparsity is shared among the layers.
        schedule: When masks are updated: interval (Delta T) and end (T_end).
        drop_fraction: Fraction of the active connections that the first update drops, in [0, 1]; alpha in the paper.
        decay: Factor on the drop fraction, from begin to end of the schedule.
        drop_score: Active connections with the lowest score are dropped.
        grow_score: Connections with the highest score are grown.
        structure: Which connections of a layer must be active together, or in which number.
        min_fan_in: Incoming connections that every unit has at least after an update, as far as the layer's go, so that
            no channel dies; a unit with fewer gets them first. 0, as in the authors' code and with a structure: none.
    """

    claims: ClassVar = {**ConstantSparsity.claims, "follows_scores": ("update_masks", "update_scores")}
    follows_scores = True  # an update is `drop_and_grow` by the two scores, and may be made so elsewhere
    updates_layers_alone = True
    ranked_by = ("drop_score", "grow_score")
    takes_ramp = True

    sparsity: Sparsity = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=UpdateSchedule)
    drop_fraction: float = 0.3
    decay: Decay = cosine
    drop_score: Score = scores.weight_magnitude
    grow_score: Score = scores.random
    structure: Structure = field(default_factory=Unstructured)
    min_fan_in: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop_fraction <= 1, self, "drop_fraction", "in [0, 1]")
        fits = self.min_fan_in == 0 or (isinstance(self.structure, Unstructured) and self.ramp is None)
        rule = "to be a whole number, at least 0, and 0 with a structure or a ramp of the sparsity"
        require(type(self.min_fan_in) is int and self.min_fan_in >= 0 and fits, self, "min_fan_in", rule)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Drop and grow in each layer."""
        planned = self._planned_counts(layers, step)
        return {name: self._update_mask(layer, step, planned.get(name)) for name, layer in layers.items()}

    def _planned_counts(self, layers: Mapping[str, Connections], step: int) -> dict[str, int]:
        """Connections that layers are to have after this update, where their masks of now do not tell.

        A ramp moves them; and a layer that may lose neurons may have fewer than its share.
        """
        matrices = [name for name, layer in layers.items() if layer.mask.ndim > 1]
        names = self.structure.ablated_layers(matrices) if self.ramp is None else list(layers)
        counts = planned_counts(self, layers, step + 1) if names else {}
        return {name: counts[name] for name in names}

    def _update_mask(self, layer: Connections, step: int, planned: int | None) -> Tensor:
        """New mask of one layer: `masks.drop_and_grow` by the two scores, as a structure or a fan-in has it."""
        n_now = count_active(layer.mask)
        n_next = n_now if planned is None or self.ramp is None else planned
        n_moved = n_update(min(n_now, n_next), self.drop_fraction_at(step))
        is_unused = not layer.is_used or _misses_gradient(self, layer)
        if n_next == n_now and (n_moved == 0 or n_now == layer.mask.numel() or is_unused):
            return layer.mask
        layer = _with_gradients(layer) if is_unused else layer
        n_drop, n_grow = max(n_now - n_next, 0) + n_moved, max(n_next - n_now, 0) + n_moved
        drop_score, grow_score = self.update_scores(layer, step, n_drop)
        if self.ramp is not None:
            return masks.drop_and_grow(layer.mask, drop_score, grow_score, n_drop, n_grow)
        if self.min_fan_in:
            mask, drop, grow = (rows_are_units(t, layer.inputs_first) for t in (layer.mask, drop_score, grow_score))
            chosen = masks.drop_and_grow(mask, *with_minimum_fan_in(mask, drop, grow, n_drop, self.min_fan_in))
            return rows_are_units(chosen, layer.inputs_first)
        return structured_drop_and_grow(self.structure, layer, drop_score, grow_score, n_drop, planned)

    def update_scores(self, layer: Connections, step: int, n_drop: int) -> tuple[Tensor, Tensor]:
        """Drop and grow scores of a layer, of which ``n_drop`` connections will be dropped."""
        return scores.evaluate(self.drop_score, layer), scores.evaluate(self.grow_score, layer)


def _misses_gradient(algorithm: SparseAlgorithm, layer: Connections) -> bool:
    """Whether there is nothing to grow by, as of a layer that no batch has used."""
    misses_average = algorithm.grad_average_decay is not None and layer.dense_grad_average is None
    return (algorithm.reads_gradient and layer.dense_grad is None) or misses_average


def _with_gradients(layer: Connections) -> Connections:
    """A layer that the batch did not use has gradient zero; a ramp moves its connections all the same."""
    nothing = torch.zeros_like(layer.weight)
    average = nothing if layer.dense_grad_average is None else layer.dense_grad_average
    return replace(layer, dense_grad=nothing, dense_grad_average=average)


def n_update(n_active: int, fraction: float) -> int:
    """Connections that an update drops of so many, truncated in float32.

    As in the reference (sparse_optimizers_base.py:286-290, commit d39fc7d).
    """
    return min(int(np.float32(n_active) * np.float32(fraction)), n_active)


@dataclass(frozen=True)
class SET(DropGrow):
    """Drop by magnitude, grow at random, after the gradient step (Mocanu et al. 2018, arXiv 1707.04780)."""


@dataclass(frozen=True)
class RigL(DropGrow):
    """Drop by magnitude, grow by gradient magnitude, instead of the gradient step (the paper, Algorithm 1)."""

    replaces_step = True

    grow_score: Score = scores.gradient_magnitude
