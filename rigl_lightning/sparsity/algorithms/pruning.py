"""Gradual pruning: dense at first, sparser with every update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.algorithms.planned_counts import falling_counts
from rigl_lightning.sparsity.distributions import Distribution, Shapes, Uniform
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.ramps import left_of_way, on_the_way
from rigl_lightning.sparsity.schedules import Decay, UpdateSchedule, cubic
from rigl_lightning.sparsity.scores import Connections, Score
from rigl_lightning.sparsity.settings import called_outside


@called_outside(schedule="ramp")
@dataclass(frozen=True)
class GradualMagnitudePruning(SparseAlgorithm):
    """Dense at first, then pruned on a cubic ramp (Zhu & Gupta 2017, arXiv 1710.01878).

    The last update is at the schedule's end, whatever the interval, so that the final sparsity is always reached. By
    default every layer but the first has the same final sparsity, as in the reference.

    Attributes:
        sparsity: Final fraction of inactive connections, in [0, 1).
        distribution: How the final sparsity is shared among the layers; all follow the same ramp.
        schedule: When to prune: begin, end and interval. The command line and saved configurations call it `ramp`.
            Otherwise the schedule of a drop-and-grow method, which begins at step 0, would stay in force when only the
            algorithm of a configuration changes.
        score: Connections with the lowest score are pruned.
        ramp_decay: Remaining fraction of the way to the final sparsity, as a function of progress; see `SparsityRamp`.
    """

    ranked_by = ("score",)

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=Uniform)
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, begin=0.2))
    score: Score = scores.weight_magnitude
    ramp_decay: Decay = cubic

    def resolve(self, total_steps: int | None) -> "GradualMagnitudePruning":
        """The same algorithm with its ramp in steps, ending at the last step at the latest.

        Raises:
            ValueError: If the ramp's end is given in steps and training ends before it.
        """
        schedule = self.schedule.resolve(total_steps)
        if total_steps is not None and schedule.end >= total_steps:
            if not isinstance(self.schedule.end, float):
                raise SettingError(
                    f"Expected pruning to end before training, got end={schedule.end} and {total_steps} steps: "
                    "the final sparsity would not be reached. Set `schedule.end` of GradualMagnitudePruning, for "
                    "example to a fraction such as 0.75."
                )
            last = total_steps - 1
            schedule = replace(schedule, begin=min(schedule.begin, last), end=last)
        return replace(self, schedule=schedule)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the last update before ``step``."""
        final = self.distribution(shapes, self.sparsity)
        update = self.last_update_before(step)
        progress = 0.0 if update is None else self.schedule.progress(update)
        return on_the_way(dict.fromkeys(shapes, 0.0), final, left_of_way(self.ramp_decay, progress))

    def further_updates(self) -> Sequence[int]:
        """The schedule's end."""
        return (int(self.schedule.end),)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Keep the highest-scored of the connections that are still active."""
        counts = falling_counts(self, layers, step + 1)
        return {n: topk_mask(scores.evaluate(self.score, layer), counts[n], layer.mask) for n, layer in layers.items()}
