"""DNW: all weights learn, and the network computes with the largest of them."""

from dataclasses import dataclass, field
from functools import partial

from rigl_lightning.sparsity.algorithms.top_k import TopK
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi
from rigl_lightning.sparsity.ramps import Sparsity
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.settings import called_outside


@called_outside(schedule="renewal")
@dataclass(frozen=True)
class DNW(TopK):
    """Straight-through top-k, "Discovering neural wirings" (Wortsman et al. 2019, arXiv 1906.00586).

    Every weight gets the gradient that it would have if it were active. After every step the largest weights become
    active. As in the reference (google-research/rigl, sparse_optimizers.py:340-471, commit 6e49b91) gradients are those
    of the masked weights, the optimizer with its momentum and weight decay works on all weights, and after its step the
    masks are the top ``1 - sparsity`` of ``|w|`` in each layer. Inactive weights keep their optimizer state.

    Deviations: the first masks are the largest initial weights; the reference begins with random masks and has the
    largest weights from step 1 on. Of equal weights the first position is active.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1), or a `SparsityRamp`.
        distribution: How the sparsity is shared among the layers.
        schedule: When the masks follow the weights: after every step, to the end of training.
            The command line and saved configurations call it `renewal`. Otherwise the schedule of a drop-and-grow
            method, which ends early, would stay in force when only the algorithm of a configuration changes.
    """

    hides_inactive_weights = True
    costs_alike = True
    takes_ramp = True

    sparsity: Sparsity = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1, end=1.0))
