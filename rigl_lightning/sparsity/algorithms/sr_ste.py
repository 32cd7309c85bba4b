"""SR-STE: all weights learn, the best of each group compute, and the others are pulled towards zero."""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rigl_lightning.sparsity.algorithms.top_k import TopK
from rigl_lightning.sparsity.distributions import Distribution, Uniform
from rigl_lightning.sparsity.ramps import Sparsity
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import called_outside, require
from rigl_lightning.sparsity.structures import NM, Structure


@called_outside(schedule="renewal")
@dataclass(frozen=True)
class SRSTE(TopK):
    """Sparse-refined straight-through estimator for N:M masks from scratch (Zhou et al. 2021, arXiv 2102.04010).

    This is `DNW` within each group of m inputs: gradients are those of the masked weights, all weights learn by them,
    and after every step the n largest weights of a group are active. ``penalty · w`` is added to the gradient of the
    others (the paper's sparse-refined term, section 3.2), so that fewer weights switch between active and inactive.

    With ``structure`` `TransposableNM` the masks are N:M in both directions, so the backward pass can use them, too.
    The term is added to the gradient before the optimizer scales it, as the paper on 2:4 pre-training recommends for
    Adam (Hu et al. 2024, arXiv 2404.01847). The continuous pruning function of the later S-STE (arXiv 2409.09099)
    changes the values of active weights and is not implemented.

    Attributes:
        sparsity: Total fraction of inactive connections: ``1 - n / m`` of the structure. With `Unstructured` any number
            in [0, 1), or a `SparsityRamp`.
        distribution: How the sparsity is shared among the layers.
        schedule: When the masks follow the weights: after every step, to the end of training.
            The command line and saved configurations call it `renewal`. Otherwise the schedule of a drop-and-grow
            method, which ends early, would stay in force when only the algorithm of a configuration changes.
        penalty: Coefficient of the sparse-refined term, at least 0; lambda_W in the paper. The default is the authors'.
        structure: Within which groups the largest weights are active.
    """

    hides_inactive_weights = True
    costs_alike = True
    takes_ramp = True

    sparsity: Sparsity = 0.5
    distribution: Distribution = field(default_factory=Uniform)
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1, end=1.0))
    penalty: float = 2e-4
    structure: Structure = field(default_factory=NM)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.penalty < math.inf, self, "penalty", "of at least 0")

    def penalty_gradient(self, layer: Connections) -> Tensor:
        """``penalty · w`` where inactive, nothing elsewhere."""
        return torch.where(layer.mask, 0.0, self.penalty * layer.weight)
