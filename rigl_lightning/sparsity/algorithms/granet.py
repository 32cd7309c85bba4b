"""GraNet: gradual pruning that drops and regrows a part of the connections at every update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.algorithms.global_ranking import topk_of_all_layers
from rigl_lightning.sparsity.algorithms.planned_counts import planned_counts
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.points import A_POINT, is_point
from rigl_lightning.sparsity.ramps import left_of_way, on_the_way
from rigl_lightning.sparsity.schedules import Decay, UpdateSchedule, cosine, cubic
from rigl_lightning.sparsity.scores import Connections, Score
from rigl_lightning.sparsity.settings import require


@dataclass(frozen=True)
class GraNet(SparseAlgorithm):
    """Gradual pruning with zero-cost neuroregeneration (Liu et al. 2021, arXiv 2106.10404, algorithm of appendix B.1).

    Each update follows a gradient step. It prunes to the sparsity of a cubic ramp, then drops a fraction of the
    remaining connections of every layer, and grows as many by the gradient of that step. After the ramp updates drop
    and grow only. The last pruning is at the end of the ramp, whatever the interval, so that the final sparsity is
    always reached.

    Defaults are those of the authors' code for CIFAR (VITA-Group/GraNet, CIFAR/main.py, CIFAR/sparselearning/core.py
    and README): start at 50 % (`--init-density 0.5`), every 1,000 steps, ramp from the start to epoch 110 of 160, drop
    fraction 0.5 with a cosine over the whole training. Deviations from that code: the first update is at step 0, there
    after one interval; the cosine ends at 0, there at 0.005; each layer keeps a connection, there a layer may lose all;
    and counts are exact, where the code compares with a threshold.

    Attributes:
        sparsity: Final fraction of inactive connections, in [0, 1).
        initial_sparsity: Sparsity at the start of the ramp, in [0, sparsity]; 0 for a dense start.
        distribution: How the sparsities are shared among the layers, at the start and at the end.
        schedule: When masks are updated. Connections are regrown until its end.
        ramp_end: When the final sparsity is reached: a step as int, or a fraction of the training as float.
        drop_fraction: Fraction of the connections that the first update drops and regrows, in [0, 1].
        decay: Factor on the drop fraction, from begin to end of the schedule.
        global_ranking: Prune the lowest scores of all layers together, as the authors do. The distribution then gives
            the start and the total only. If False, each layer follows its own ramp.
        drop_score: Connections with the lowest score are pruned or dropped.
        grow_score: Connections with the highest score are grown.
        ramp_decay: Remaining fraction of the way to the final sparsity, as a function of progress; see `SparsityRamp`.
    """

    ranked_by = ("drop_score", "grow_score")

    sparsity: float = 0.9
    initial_sparsity: float = 0.5
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1000, end=1.0))
    ramp_end: int | float = 0.6875
    points = ("ramp_end",)
    drop_fraction: float = 0.5
    decay: Decay = cosine
    global_ranking: bool = True
    drop_score: Score = scores.weight_magnitude
    grow_score: Score = scores.gradient_magnitude
    ramp_decay: Decay = cubic

    def __post_init__(self) -> None:
        super().__post_init__()
        initial = f"in [0, {self.sparsity}], the final sparsity"
        require(0 <= self.initial_sparsity <= self.sparsity, self, "initial_sparsity", initial)
        require(0 <= self.drop_fraction <= 1, self, "drop_fraction", "in [0, 1]")
        require(is_point(self.ramp_end), self, "ramp_end", A_POINT)

    def resolve(self, total_steps: int | None) -> "GraNet":
        """The same algorithm with its window and its ramp in steps, the ramp ending at the last step at the latest.

        Raises:
            ValueError: If the ramp ends before it begins, or in steps that training does not reach.
        """
        schedule = self.schedule.resolve(total_steps)
        end = replace(schedule, begin=0, end=self.ramp_end).resolve(total_steps).end
        if total_steps is not None and end >= total_steps and isinstance(self.ramp_end, float):
            end = total_steps - 1
        if end < schedule.begin or (total_steps is not None and end >= total_steps):
            raise SettingError(
                f"Expected `ramp_end` after the schedule's begin, {schedule.begin}, and before the end of training"
                f"{'' if total_steps is None else f', {total_steps} steps'}, got {end}. "
                "Set `ramp_end` of GraNet, for example to a fraction such as 0.5."
            )
        if schedule.end < end:
            raise SettingError(
                f"Expected updates to go on until the ramp ends, at step {end}, got a schedule that ends at "
                f"{schedule.end}. Set `schedule.end` of GraNet to 1.0, or an earlier `ramp_end` of GraNet."
            )
        return replace(self, schedule=schedule, ramp_end=end)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the last update before ``step``; with a global ranking this holds of their total."""
        final = self.distribution(shapes, self.sparsity)
        # A dense start is dense everywhere, also where the distribution says otherwise (`custom`).
        dense = dict.fromkeys(shapes, 0.0)
        initial = self.distribution(shapes, self.initial_sparsity) if self.initial_sparsity > 0 else dense
        update = self.last_update_before(step)
        progress = 0.0 if update is None else replace(self.schedule, end=self.ramp_end).progress(update)
        return on_the_way(initial, final, left_of_way(self.ramp_decay, progress))

    def further_updates(self) -> Sequence[int]:
        """The end of the ramp."""
        return (int(self.ramp_end),)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Prune, then regrow in each layer that had a gradient."""
        counts = planned_counts(self, layers, step + 1)
        ranked = {name: scores.evaluate(self.drop_score, layer) for name, layer in layers.items()}
        if self.global_ranking:
            pruned = _prune_together(ranked, {n: layer.mask for n, layer in layers.items()}, sum(counts.values()))
        else:
            pruned = {n: _prune(ranked[n], layer.mask, counts[n]) for n, layer in layers.items()}
        # A layer's share may be rounded up after it was rounded down at the last update: then one more is grown.
        wanted = {n: count_active(mask) for n, mask in pruned.items()} if self.global_ranking else counts
        regrow = partial(_regrow, grow_score=self.grow_score, fraction=self.drop_fraction_at(step))
        return {n: regrow(layer, pruned[n], ranked[n], wanted[n]) for n, layer in layers.items()}


def _regrow(
    layer: Connections, mask: Tensor, drop_score: Tensor, n_wanted: int, grow_score: Score, fraction: float
) -> Tensor:
    n_active = count_active(mask)
    n_drop = int(np.float32(n_active) * np.float32(fraction))
    n_grow = n_wanted - (n_active - n_drop)
    unused = scores.needs_gradient(grow_score) and layer.dense_grad is None
    if unused or n_grow == 0 or n_active == mask.numel():
        return mask
    survivors = topk_mask(drop_score, n_active - n_drop, mask)
    return survivors | topk_mask(scores.evaluate(grow_score, layer), n_grow, ~survivors)


def _prune(score: Tensor, mask: Tensor, n_active: int) -> Tensor:
    return topk_mask(score, n_active, mask) if n_active < count_active(mask) else mask


def _prune_together(ranked: Mapping[str, Tensor], masks: Masks, n_active: int) -> Masks:
    return topk_of_all_layers(ranked, n_active, masks) if n_active < sum(map(count_active, masks.values())) else masks
