"""GraSP: one ranking of the connections on the first batch, by what they do for the flow of gradients."""

from dataclasses import dataclass

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.one_shot import OneShot
from rigl_lightning.sparsity.scores import Score


@dataclass(frozen=True)
class GraSP(OneShot):
    """Keep the connections with the largest ``w · Hg`` on the first batch (Wang et al. 2020, arXiv 2002.07376).

    That is, remove those with the largest ``-w · Hg``, as the authors' code does (alecwangcq/GraSP, pruner/GraSP.py),
    and rank all layers together. H and g are those of the sparse weights alone, as there.

    Deviations: one batch, whatever its size, where the authors draw ten samples a class; the loss is the user's, where
    they divide the logits by a temperature of 200; and with gradient accumulation the products of the parts are added
    up, which leaves out how one part's Hessian acts on another part's gradient. The batch makes no gradient step, as
    for SNIP. In a loop of one's own call `Sparsifier.before_backward`. What the products cost, about two more backward
    passes of one step, is not in the FLOPs.

    Attributes:
        global_ranking: Rank all layers together, as the paper does; else within each layer's share.
    """

    replaces_step = True

    global_ranking: bool = True
    score: Score = scores.gradient_flow

    @property
    def ranking_step(self) -> int:
        """Step 0."""
        return 0

    def needs_hessian_gradient(self, step: int) -> bool:
        """At step 0 only."""
        return self.is_update(step)
