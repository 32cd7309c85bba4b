"""CHTs: connections grow where the network's own paths lead; drops and growth are drawn at random by their scores."""

from dataclasses import dataclass, replace

from torch import Tensor

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.drop_grow import DropGrow
from rigl_lightning.sparsity.paths import soft_order
from rigl_lightning.sparsity.scores import Connections, Score
from rigl_lightning.sparsity.selection import smallest
from rigl_lightning.sparsity.settings import require


@dataclass(frozen=True)
class CHTs(DropGrow):
    """Cannistraci-Hebb training, soft rule (Zhang et al. 2025, arXiv 2501.19107): growth by paths, without gradients.

    An update draws the connections that stay, in proportion to ``score^(delta / (1 - delta))`` (section 3.1, equation
    2), then those that grow, in proportion to the number and locality of the paths of length three that lead there
    through the connections that stayed. CHTss is this with a sparsity that rises on a sigmoid:
    ``CHTs(SparsityRamp(0.5, 0.9, decay=sigmoid))``. ``relative_importance`` is the paper's other drop score.

    As in the authors' code delta / (1 - delta) goes linearly from 1 to 3 over the updates. Deviations: first masks are
    random with exact counts, where the paper has its bipartite receptive fields; connections of units that have lost
    all inputs or all outputs stay; a ramp's surplus goes by the same soft rule, where CHTss prunes it first; the
    path-based CH3-L3p, whose cost grows with the cube of the degree, is not here.

    Attributes:
        drop_score: The lower, the more likely a connection is dropped: ``weight_magnitude`` or ``relative_importance``;
            at least 0.
        grow_score: The higher, the more likely a connection is grown; computed after the drop, at least 0. Connections
            with a score of 0 are grown last, at random.
        first_softness: delta of the drop at the first update, in [0, 1): with 0 the drop is random, near 1 it goes by
            rank.
        last_softness: delta at the end of the updates.
    """

    grow_score: Score = scores.length_three_paths
    first_softness: float = 0.5
    last_softness: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_softness", "last_softness"):
            require(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")

    def power_at(self, step: int) -> float:
        """``delta / (1 - delta)``, from its first to its last value."""
        first, last = (softness / (1 - softness) for softness in (self.first_softness, self.last_softness))
        return first + (last - first) * self.schedule.progress(step)

    def update_scores(self, layer: Connections, step: int, n_drop: int) -> tuple[Tensor, Tensor]:
        """Orders that are drawn in proportion to strength and paths."""
        strength = scores.evaluate(self.drop_score, layer).double() ** self.power_at(step)
        drop = soft_order(strength, layer.generator)
        survivors = layer.mask.clone().reshape(-1)
        survivors[smallest(drop, n_drop, layer.mask)] = False
        left = replace(layer, mask=survivors.view(layer.mask.shape))
        return drop, soft_order(scores.evaluate(self.grow_score, left), layer.generator)
