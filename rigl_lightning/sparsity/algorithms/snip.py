"""SNIP: one ranking of the connections on the first batch."""

from dataclasses import dataclass

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.one_shot import OneShot
from rigl_lightning.sparsity.scores import Score


@dataclass(frozen=True)
class SNIP(OneShot):
    """Keep the connections with the largest ``|w · dL/dw|`` on the first batch (Lee et al. 2019, arXiv 1810.02340).

    The first batch gives the masks and makes no gradient step, as in the reference (sparse_optimizers.py:217-337). By
    default connections are ranked within their layer, as in the RigL paper. SNIP's authors rank those of all layers
    together (``global_ranking``).
    """

    replaces_step = True

    score: Score = scores.saliency

    @property
    def ranking_step(self) -> int:
        """Step 0."""
        return 0
