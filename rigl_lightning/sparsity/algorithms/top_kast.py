"""Top-KAST: a sparse network within a larger, still sparse set of weights that learn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rigl_lightning.sparsity.algorithms.base import Masks, Memory
from rigl_lightning.sparsity.algorithms.constant_sparsity import ConstantSparsity
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes, active_counts
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import called_outside, require


@called_outside(schedule="renewal")
@dataclass(frozen=True)
class TopKAST(ConstantSparsity):
    """The largest weights compute, a larger set of the largest learns (Jayakumar et al. 2020, arXiv 2106.03517).

    In each layer the forward set A is the top D of ``|w|``, and the backward set B is the top D + M, which contains A.
    The weights of A compute, those of B learn, all others keep their values. The exploration regulariser adds
    ``penalty · w`` to the gradient in A and ``penalty / D · w`` in the rest of B (the paper's exploration loss, in L2
    form). So a weight must reduce the loss to enter A; a weight outside B does not shrink and can come back.

    Both sets are renewed together, every 100 steps to the end of training; the paper finds that they need not be
    renewed at every step. Deviations: the densities of the sets follow a distribution; in the paper they are the same
    in every layer. M is fixed; some runs of the paper stop exploring. Biases and norms are not regularised. The paper
    gives no value for the default penalty. Set the optimizer's weight decay to zero to have no other regulariser.

    Attributes:
        sparsity: Total fraction of connections that are not in the forward set, 1 - D, in [0, 1).
        backward_sparsity: Total fraction of weights that do not learn, 1 - (D + M), in [0, ``sparsity``].
        distribution: How both sparsities are shared among the layers.
        schedule: When the sets are renewed, after the gradient step.
            The command line and saved configurations call it `renewal`. Otherwise the schedule of a drop-and-grow
            method, which ends early, would stay in force when only the algorithm of a configuration changes.
        penalty: Coefficient of the exploration regulariser, at least 0.
    """

    hides_inactive_weights = True
    costs_alike = True

    sparsity: float = 0.9
    backward_sparsity: float = 0.8
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, end=1.0))
    penalty: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        learning = f"in [0, {self.sparsity}], so that active weights learn"
        require(0 <= self.backward_sparsity <= self.sparsity, self, "backward_sparsity", learning)
        require(0 <= self.penalty < math.inf, self, "penalty", "of at least 0")

    def weight_gradient_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the backward set, from the first step to the last."""
        return self.distribution(shapes, self.backward_sparsity)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """The forward set: the top D of each layer."""
        return _largest_weights(layers, self.layer_sparsities(_shapes(layers), step))

    def learning_masks(self, layers: Mapping[str, Connections]) -> Masks:
        """The backward set: the top D + M of each layer, the forward set included."""
        largest = _largest_weights(layers, self.weight_gradient_sparsities(_shapes(layers), 0))
        return {name: mask | layers[name].mask for name, mask in largest.items()}

    def penalty_gradient(self, layer: Connections) -> Tensor:
        """``penalty · w`` where active and ``penalty / D · w`` elsewhere, D the layer's density."""
        n_active = torch.count_nonzero(layer.mask)  # not a number of Python: the host would wait for the device
        return self.penalty * layer.weight * torch.where(layer.mask, 1.0, layer.mask.numel() / n_active)


def _shapes(layers: Mapping[str, Connections]) -> Shapes:
    return {name: layer.shape for name, layer in layers.items()}


def _largest_weights(layers: Mapping[str, Connections], sparsities: Mapping[str, float]) -> Masks:
    counts = active_counts(_shapes(layers), sparsities)
    return {name: topk_mask(layer.weight.abs(), counts[name]) for name, layer in layers.items()}
