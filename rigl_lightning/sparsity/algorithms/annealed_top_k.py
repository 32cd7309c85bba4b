"""Annealed top-k: dense at first, then fewer and fewer of the largest weights. All weights get gradients."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from rigl_lightning.sparsity.algorithms.top_k import TopK
from rigl_lightning.sparsity.distributions import Distribution, Uniform
from rigl_lightning.sparsity.points import A_POINT, is_point
from rigl_lightning.sparsity.ramps import SparsityRamp
from rigl_lightning.sparsity.schedules import Decay, UpdateSchedule, linear
from rigl_lightning.sparsity.settings import called_outside, require


@called_outside(schedule="renewal")
@dataclass(frozen=True)
class AnnealedTopK(TopK):
    """The training of weight-sparse transformers (Gao et al. 2025, arXiv 2511.13653, appendix on optimization).

    After every step all but the largest weights of each layer are set to zero. Zeroed weights keep their gradients and
    their optimizer state, so they may be among the largest after the next step. The fraction of active weights falls
    linearly from 1 to ``1 - sparsity`` in the first half of the training. Every unit keeps its largest few weights.

    The paper makes every matrix, bias and embedding equally sparse (``include`` them). Its other settings belong to the
    training and not to this method: a learning rate in proportion to ``1 / sqrt(density)``, a large epsilon of Adam,
    and gradients clipped to a root mean square of 1. Deviations: the minimum holds for units (rows); the paper has it
    for attention channels, too. It does not hold where a layer has too few connections for it.

    Attributes:
        sparsity: Final fraction of inactive connections, in [0, 1).
        distribution: How the sparsity is shared among the layers; by default equally, as in the paper.
        schedule: When all but the largest weights are set to zero: after every step, to the end of training. Between
            two updates inactive weights learn, and the network computes without them.
            The command line and saved configurations call it `renewal`. Otherwise the schedule of a drop-and-grow
            method, which ends early, would stay in force when only the algorithm of a configuration changes.
        anneal_begin: When the number of weights begins to fall: a step as int, or a fraction of the training as float.
        anneal_end: When the final sparsity is reached, as for ``anneal_begin``.
        ramp_decay: Remaining fraction of the way to the final sparsity, as a function of progress; see `SparsityRamp`.
        min_fan_in: Incoming weights that every unit keeps.
    """

    hides_inactive_weights = True
    forgets_inactive_weights = True
    points = ("anneal_begin", "anneal_end")

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=partial(Uniform, first_layer_dense=False))
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1, end=1.0))
    anneal_begin: int | float = 0
    anneal_end: int | float = 0.5
    ramp_decay: Decay = linear
    min_fan_in: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.points:
            require(is_point(getattr(self, name)), self, name, A_POINT)

    @cached_property
    def ramp(self) -> SparsityRamp:
        """From dense to the sparsity."""
        return SparsityRamp(0.0, self.sparsity, self.anneal_begin, self.anneal_end, self.ramp_decay)

    def with_ramp(self, ramp: SparsityRamp) -> "AnnealedTopK":
        """The same with the points of a resolved ramp."""
        return replace(self, anneal_begin=ramp.begin, anneal_end=ramp.end)
