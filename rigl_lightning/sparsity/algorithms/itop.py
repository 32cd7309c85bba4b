"""SET and RigL with the settings of in-time over-parameterization (Liu et al. 2021, arXiv 2102.02887).

What ITOP adds to them is not an algorithm: weights need time to grow before they are judged (long intervals), and a
training should try as many connections as it can (large drop fraction, updates to the end, many steps by small
batches). `Sparsifier.exploration` tells how many it tried. The numbers are those of the authors' code
(Shiweiliuiiiiiii/In-Time-Over-Parameterization, README and main.py) for 250 epochs of CIFAR-10 in batches of 128, which
are 97,656 steps. A shorter training needs a shorter interval: see docs/methods_after_rigl.md.

Two things differ from the code. It makes the first update after one interval; here, as for every method, it is at step
0. And its cosine ends at a drop fraction of 0.005, ours at 0.
"""

from dataclasses import dataclass, field
from functools import partial

from rigl_lightning.sparsity.algorithms.drop_grow import SET, RigL
from rigl_lightning.sparsity.schedules import UpdateSchedule


@dataclass(frozen=True)
class SETITOP(SET):
    """SET-ITOP: half of the connections at first, every 1,500 steps, to the end of training."""

    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1500, end=1.0))
    drop_fraction: float = 0.5


@dataclass(frozen=True)
class RigLITOP(RigL):
    """RigL-ITOP: half of the connections at first, every 4,000 steps, to the end of training.

    Masks are updated after the gradient step, by the gradient of that step, as in the authors' code (sparselearning/
    core.py), and not instead of it.
    """

    replaces_step = False

    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=4000, end=1.0))
    drop_fraction: float = 0.5
