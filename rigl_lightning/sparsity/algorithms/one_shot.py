"""One-shot methods: the connections are ranked once, and the best of them are kept from then on."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.algorithms.global_ranking import topk_of_all_layers
from rigl_lightning.sparsity.algorithms.planned_counts import planned_counts
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.points import A_POINT, is_point, resolved_point
from rigl_lightning.sparsity.scores import Connections, Score
from rigl_lightning.sparsity.settings import require


@dataclass(frozen=True)
class OneShot(SparseAlgorithm):
    """Base of the methods that rank all connections once: dense before, unchanged after.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: Sparsity of each layer, within which its connections are ranked.
        global_ranking: Rank the connections of all layers together. The distribution then gives the total only, and
            each layer keeps at least its highest-scored connection.
        score: Connections with the highest score are kept.
    """

    ranked_by = ("score",)

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    global_ranking: bool = False
    score: Score = scores.weight_magnitude

    @property
    @abstractmethod
    def ranking_step(self) -> int:
        """Step of the one update."""

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Zero until the connections are ranked; then, at least in total, those of the distribution."""
        final = self.distribution(shapes, self.sparsity)
        return dict.fromkeys(shapes, 0.0) if step <= self.ranking_step else final

    def further_updates(self) -> Sequence[int]:
        """The step of the ranking."""
        return (self.ranking_step,)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Keep the highest-scored connections."""
        counts = planned_counts(self, layers, step + 1)
        ranked = {name: _rank(self.score, layer) for name, layer in layers.items()}
        if self.global_ranking:
            return topk_of_all_layers(ranked, sum(counts.values()))
        return {name: topk_mask(score, counts[name]) for name, score in ranked.items()}


def _rank(score: Score, layer: Connections) -> Tensor:
    # A layer that the batch did not use has gradient zero.
    if layer.dense_grad is None and scores.needs_gradient(score):
        return torch.zeros_like(layer.weight)
    return scores.evaluate(score, layer)


@dataclass(frozen=True)
class OneShotMagnitude(OneShot):
    """Dense training for a while, then the smallest weights are pruned at once (Han et al. 2015, arXiv 1506.02626).

    That paper trains, prunes and trains again; this is one round of it within one run, and the steps after the pruning
    are the retraining. With ``at`` 0 it is magnitude pruning at initialisation, a baseline of Frankle et al. (2021,
    arXiv 2009.08576). Deviation: the paper prunes below a multiple of each layer's standard deviation; here the number
    of pruned connections is exact.

    Attributes:
        at: Steps of dense training before the pruning: an int, or a fraction of the training in [0, 1] as a float.
    """

    at: int | float = 0.5
    points = ("at",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_point(self.at), self, "at", A_POINT)
        if self.at == 0 and self.reads_gradient:
            raise SettingError(
                "Expected a score of the weights alone at the very beginning, where there is no gradient, got "
                f"{getattr(self.score, '__qualname__', self.score)}. Set `at` of OneShotMagnitude above 0, or use SNIP."
            )

    def resolve(self, total_steps: int | None) -> "OneShotMagnitude":
        """The same algorithm with its point in steps.

        Raises:
            ValueError: If it is a fraction of an unknown number of steps, or lies behind the end of training.
        """
        steps = resolved_point(self.at, total_steps, "at")
        if total_steps is not None and steps > total_steps:
            raise SettingError(
                f"Expected pruning before training ends, got at={steps} and {total_steps} steps. Set "
                "`at` of OneShotMagnitude, for example to a fraction such as 0.5."
            )
        return replace(self, at=steps)

    @property
    def ranking_step(self) -> int:
        """The last dense step, after which it is pruned; -1 if it is pruned before the first."""
        if isinstance(self.at, float):
            raise SettingError(f"Expected a resolved algorithm, got at={self.at}. Call resolve(total_steps) first.")
        return self.at - 1

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """Pruned already if ``at`` is 0."""
        return self.update_masks(layers, -1, memory) if self.ranking_step < 0 else super().begin(layers, memory)
