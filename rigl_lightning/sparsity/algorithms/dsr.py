"""DSR: one threshold for all layers decides what is pruned, and layers that keep much grow much."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import GeneratorOf, Masks, Memory
from rigl_lightning.sparsity.algorithms.constant_sparsity import ConstantSparsity
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import require

_HALF = 0.5
"""Of the active connections."""


@dataclass(frozen=True)
class DSR(ConstantSparsity):
    """Dynamic sparse reparameterization (Mostafa & Wang 2019, arXiv 1902.05967): connections move between layers.

    An update follows the gradient step (paper, Algorithm 1). It prunes every connection below the threshold. It doubles
    the threshold if fewer connections were pruned than the target minus a tolerance, and halves it if more than the
    target plus a tolerance. It grows as many at random, in each layer in proportion to the connections that it kept;
    the share that does not fit into a full layer goes to the others. The total number of connections is exact at every
    step; the number in a layer is not known in advance.

    Numbers: target 1 %, first threshold 0.001, tolerance 0.1 and factor 2 as in the authors' second code
    (``DSModel``: target_fraction_to_prune, pruning_threshold, adjust_pruning_threshold). An update replaces
    ``target_fraction / (1 - sparsity)`` of the active connections, at 99 % all of them. Lower the target at high
    sparsity: the authors' first code moves 600 of LeNet-300-100's 266,200 connections, 0.00225 (its README).

    Deviations: each layer keeps its largest connection, because without one it could never grow again. A connection
    that is pruned and drawn again in the same update keeps its value, as in all methods here; in the paper it becomes
    zero. The interval is constant and updates end at T_end; the paper's interval grows during training. All sparse
    layers take part, also those that the distribution makes dense.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: How the sparsity is shared among the layers at the start.
        schedule: When masks are updated.
        target_fraction: Connections to prune at an update, as a fraction of all connections, active or not; above 0 and
            at most ``1 - sparsity``.
        threshold: The first update prunes connections with ``|w|`` below it; above 0.
        tolerance: Relative deviation from the target at which the threshold stays the same, at least 0.
    """

    costs_alike = True
    global_ranking = True  # one threshold for all layers

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=UpdateSchedule)
    target_fraction: float = 0.01
    threshold: float = 0.001
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, accepted, expected in (
            ("target_fraction", 0 < self.target_fraction <= 1, "in (0, 1]"),
            ("threshold", 0 < self.threshold < math.inf, "above 0"),
            ("tolerance", 0 <= self.tolerance < math.inf, "of at least 0"),
        ):
            require(accepted, self, name, expected)
        density = 1 - self.sparsity
        if self.target_fraction > density + 1e-9:
            raise SettingError(
                f"Expected `target_fraction` of at most the density, {density:.4g}, got {self.target_fraction}: "
                "every update would prune all connections. Lower `target_fraction` of DSR."
            )

    @property
    def caution(self) -> str | None:
        """If an update replaces more than half: LeNet-300-100 at .99 loses 18 points if it replaces all."""
        share = self.target_fraction / (1 - self.sparsity)
        if share <= _HALF:
            return None
        return f"DSR replaces {share:.0%} of the active connections at every update. Lower its target_fraction."

    def initial_memory(self, shapes: Shapes, generator: GeneratorOf) -> Memory:
        """The threshold."""
        return {"threshold": self.threshold}

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Prune by the threshold, adapt it, and grow, in the layers that this step used."""
        used = {name: layer for name, layer in layers.items() if layer.is_used}
        kept = {name: _at_least(memory["threshold"], layer) for name, layer in used.items()}
        n_kept = {name: count_active(mask) for name, mask in kept.items()}
        n_pruned = sum(count_active(layer.mask) for layer in used.values()) - sum(n_kept.values())
        target = self.target_fraction * sum(layer.mask.numel() for layer in used.values())
        memory["threshold"] = adapted_threshold(memory["threshold"], n_pruned, target, self.tolerance)
        room = {name: layer.mask.numel() - n_kept[name] for name, layer in used.items()}
        n_grown = proportional_shares(n_pruned, n_kept, room)
        return {n: _grow(kept[n], layer, n_grown[n]) if n in used else layer.mask for n, layer in layers.items()}


def adapted_threshold(threshold: float, n_pruned: int, target: float, tolerance: float) -> float:
    """Twice the threshold if too few connections were pruned, half of it if too many (paper, Algorithm 1).

    >>> [adapted_threshold(0.5, n_pruned, 100, 0.1) for n_pruned in (89, 90, 110, 111)]
    [1.0, 0.5, 0.5, 0.25]
    """
    if n_pruned < (1 - tolerance) * target:
        return threshold * 2
    return threshold / 2 if n_pruned > (1 + tolerance) * target else threshold


def proportional_shares(total: int, weights: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers with an exact sum, in proportion to weights, none above its room.

    What a full one cannot take is shared among the others in the same proportion. The largest remainders are rounded up
    first, the first of equals before the next.

    Args:
        total: In [0, sum of ``room``].
        weights: At least 1 each.
        room: At least 0 each.

    >>> proportional_shares(10, {"a": 3, "b": 1, "c": 1}, {"a": 9, "b": 9, "c": 9})
    {'a': 6, 'b': 2, 'c': 2}
    >>> proportional_shares(10, {"a": 3, "b": 1, "c": 1}, {"a": 4, "b": 9, "c": 9})
    {'a': 4, 'b': 3, 'c': 3}
    """
    full: set[str] = set()
    while True:
        open_names = [name for name in weights if name not in full]
        left = total - sum(room[name] for name in full)
        scale = left / max(sum(weights[name] for name in open_names), 1)
        newly_full = {name for name in open_names if weights[name] * scale >= room[name]}
        if not newly_full:
            break
        full |= newly_full
    exact = {name: float(room[name]) if name in full else weights[name] * scale for name in weights}
    shares = {name: math.floor(value) for name, value in exact.items()}
    missing = total - sum(shares.values())
    able = sorted((n for n in weights if shares[n] < room[n]), key=lambda name: shares[name] - exact[name])
    for name in able[:missing]:
        shares[name] += 1
    return shares


def _at_least(threshold: float, layer: Connections) -> Tensor:
    magnitude = layer.weight.abs()
    kept = layer.mask & (magnitude >= threshold)
    return kept if bool(kept.any()) else topk_mask(magnitude, 1, layer.mask)


def _grow(kept: Tensor, layer: Connections, n_grown: int) -> Tensor:
    return kept | topk_mask(scores.random(layer), n_grown, ~kept)
