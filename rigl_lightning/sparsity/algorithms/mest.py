"""MEST: drop and grow whose drops look at gradients too, and become fewer in steps."""

from dataclasses import dataclass

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

    As SET, at random, but what is dropped is the smallest ``|w| + lambda |dL/dw|``, and the fraction that moves becomes
    smaller in steps ("elastic mutation", EM). With a soft memory bound (EM&S) the network has more connections than in
    the end as long as it explores: a `SparsityRamp` from a lower sparsity.

    Numbers are those of the authors' code at 90 % (boone891214/MEST, scripts/resnet32/EM): a fifth of the connections
    moves over the first 90 of 160 epochs, a tenth up to epoch 120, and none after. Its updates are five epochs apart;
    ours have the package's interval. Its public scripts leave lambda at 0; our default is that of MEST in the code of
    CHTs. Deviations: the gradient is that of the update's own step, and all of it is computed, though only that of
    active connections is read; with a soft bound the surplus goes update by update.

    Attributes:
        drop_fraction: Fraction of the active connections moved at the first updates, in [0, 1].
        gradient_weight: lambda, at least 0.
    """

    drop_fraction: float = 0.2
    decay: Decay = in_two_steps
    gradient_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gradient_weight >= 0, self, "gradient_weight", "of at least 0")

    @property
    def reads_gradient(self) -> bool:
        """Unless lambda is 0."""
        return self.gradient_weight > 0 or super().reads_gradient

    def update_scores(self, layer: Connections, step: int, n_drop: int) -> tuple[Tensor, Tensor]:
        """As in the base, the drop score with the gradient's part."""
        drop, grow = super().update_scores(layer, step, n_drop)
        return (drop + self.gradient_weight * layer.grad.abs() if self.gradient_weight > 0 else drop), grow
