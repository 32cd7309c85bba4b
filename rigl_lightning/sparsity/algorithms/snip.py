"""SNIP: one ranking of the connections on the first batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.distributions import (
    Distribution,
    ErdosRenyi,
    Shapes,
    active_counts,
    check_sparsity,
)
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.scores import Connections, Score


@dataclass(frozen=True)
class SNIP(SparseAlgorithm):
    """Keep the connections with the largest ``|w · dL/dw|`` on the first batch (Lee et al. 2019, arXiv 1810.02340).

    The first batch makes the masks and no gradient step, as in the reference (sparse_optimizers.py:217-337).

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: Sparsity of each layer, within which its connections are ranked, as the paper does.
        global_ranking: Rank the connections of all layers together, as SNIP's authors do; the distribution then
            gives the total only, and each layer keeps at least its best connection.
        score: The criterion.
    """

    replaces_step = True

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    global_ranking: bool = False
    score: Score = scores.saliency

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Zero until the first batch has ranked the connections; then, in the mean, those of the distribution."""
        final = self.distribution(shapes, self.sparsity)
        return dict.fromkeys(shapes, 0.0) if step == 0 else final

    def is_update(self, step: int) -> bool:
        """At step 0 only."""
        return step == 0

    def needs_dense_gradient(self, step: int) -> bool:
        """At step 0 only."""
        return self.is_update(step)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Keep the highest-scored connections."""
        shapes = {name: layer.weight.shape for name, layer in layers.items()}
        counts = active_counts(shapes, self.layer_sparsities(shapes, step + 1))
        ranked = {name: self._rank(layer) for name, layer in layers.items()}
        if self.global_ranking:
            return _global_topk(ranked, sum(counts.values()))
        return {name: topk_mask(score, counts[name]) for name, score in ranked.items()}

    def _rank(self, layer: Connections) -> Tensor:
        # A layer that the first batch did not use has gradient zero.
        return scores.evaluate(self.score, layer) if layer.dense_grad is not None else torch.zeros_like(layer.weight)

    def update_steps(self) -> Sequence[int]:
        """Step 0."""
        return (0,)


def _global_topk(ranked: Mapping[str, Tensor], n_active: int) -> Masks:
    flat = {name: score.reshape(-1).clone() for name, score in ranked.items()}
    for score in flat.values():
        score[score.argmax()] = torch.inf  # no layer may lose all its connections
    kept = topk_mask(torch.cat(list(flat.values())), n_active)
    parts = kept.split([score.numel() for score in flat.values()])
    return {name: part.view(ranked[name].shape) for name, part in zip(ranked, parts, strict=True)}
