"""GraSP: one ranking of the connections on the first batch, by what they do for the flow of gradients."""

from dataclasses import dataclass

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.one_shot import OneShot
from rigl_lightning.sparsity.scores import Score


@dataclass(frozen=True)
class GraSP(OneShot):
    """Keep the connections with the largest ``w · Hg`` on the first batch (Wang et al. 2020, arXiv 2002.07376).

    H is the Hessian of the loss and g its gradient, of the sparse weights alone. This removes the connections with the
    largest ``-w · Hg``, ranked over all layers, as the authors' code does (alecwangcq/GraSP, pruner/GraSP.py).

    Deviations: the ranking uses one batch of any size; the authors draw ten samples of each class. The loss is the
    user's; the authors divide the logits by a temperature of 200. With gradient accumulation the products of the parts
    are added up, which leaves out how one part's Hessian acts on another part's gradient. The batch makes no gradient
    step, as for SNIP. A training loop without Lightning must call `Sparsifier.before_backward`. The product costs about
    two more backward passes of one step, which the FLOPs do not include.

    Attributes:
        global_ranking: Rank the connections of all layers together, as the paper does; if False, within each layer.
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
