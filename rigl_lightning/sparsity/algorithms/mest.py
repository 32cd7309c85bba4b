"""MEST: drop and grow with gradients in the drop score, and a drop fraction that falls in steps."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from rigl_lightning.sparsity.algorithms.drop_grow import DropGrow
from rigl_lightning.sparsity.schedules import Decay
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import require


def in_two_steps(progress: float) -> float:
    """1 over three quarters of the window, then a half: MEST's elastic mutation.

    >>> [in_two_steps(p) for p in (0.0, 0.7, 0.75, 0.9)]
    [1.0, 1.0, 0.5, 0.5]
    """
    return 1.0 if progress < 0.75 else 0.5


@dataclass(frozen=True)
class MEST(DropGrow):
    """Memory-economic sparse training with elastic mutation (Yuan et al. 2021, arXiv 2110.14032).

    As SET it grows at random, but it drops the connections with the smallest ``|w| + lambda |dL/dw|``, and the drop
    fraction falls in steps ("elastic mutation", EM). With a soft memory bound (EM&S) the network has more connections
    while it explores than in the end: a `SparsityRamp` from a lower sparsity.

    Numbers are those of the authors' code at 90 % (boone891214/MEST, scripts/resnet32/EM): a fifth of the connections
    moves over the first 90 of 160 epochs, a tenth up to epoch 120, and none after. Its updates are five epochs apart;
    here they have the package's default interval. Its public scripts leave lambda at 0; the default here is that of
    MEST in the code of CHTs. Deviations: the gradient is that of the step of the update, and it is computed for all
    connections, though only that of active ones is read. With a soft bound the surplus is dropped over several updates.

    Attributes:
        drop_fraction: Fraction of the active connections that the first updates drop, in [0, 1].
        gradient_weight: Coefficient lambda of the gradient in the drop score, at least 0.
    """

    drop_fraction: float = 0.2
    decay: Decay = in_two_steps
    gradient_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.gradient_weight < math.inf, self, "gradient_weight", "of at least 0")

    @cached_property
    def reads_gradient(self) -> bool:
        """Unless lambda is 0."""
        return self.gradient_weight > 0 or super().reads_gradient

    def update_scores(self, layer: Connections, step: int, n_drop: int) -> tuple[Tensor, Tensor]:
        """As in the base, the drop score with the gradient's part."""
        drop, grow = super().update_scores(layer, step, n_drop)
        return (drop + self.gradient_weight * layer.grad.abs() if self.gradient_weight > 0 else drop), grow
