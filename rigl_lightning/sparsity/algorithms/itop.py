"""SET and RigL with the settings of in-time over-parameterization (Liu et al. 2021, arXiv 2102.02887).

ITOP is not another algorithm, but advice: weights need time to grow before they are dropped (long intervals), and a
training should try as many connections as possible (large drop fraction, updates to the end, many steps with small
batches). `Sparsifier.exploration` is the fraction that it tried. The numbers are those of the authors' code
(Shiweiliuiiiiiii/In-Time-Over-Parameterization, README and main.py) for 250 epochs of CIFAR-10 in batches of 128, which
are 97,656 steps. A shorter training needs a shorter interval: see docs/methods_after_rigl.md.

Two things differ from the code. Here the first update is at step 0, as for every method; there it is after an interval.
Here the cosine ends at a drop fraction of 0; there at 0.005.
"""

from dataclasses import dataclass, field
from functools import partial

from rigl_lightning.sparsity.algorithms.drop_grow import SET, RigL
from rigl_lightning.sparsity.schedules import UpdateSchedule


@dataclass(frozen=True)
class SETITOP(SET):
    """SET-ITOP: drops half of the connections at first, every 1,500 steps, to the end of training."""

    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1500, end=1.0))
    drop_fraction: float = 0.5


@dataclass(frozen=True)
class RigLITOP(RigL):
    """RigL-ITOP: drops half of the connections at first, every 4,000 steps, to the end of training.

    As in the authors' code (sparselearning/core.py) an update follows the gradient step and does not replace it. It
    uses the gradient of that step.
    """

    replaces_step = False

    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=4000, end=1.0))
    drop_fraction: float = 0.5
