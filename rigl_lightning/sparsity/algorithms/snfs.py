"""SNFS: drop by magnitude, grow by the averaged dense gradient."""

from dataclasses import dataclass

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.drop_grow import DropGrow
from rigl_lightning.sparsity.scores import Score
from rigl_lightning.sparsity.settings import require


@dataclass(frozen=True)
class SNFS(DropGrow):
    """Drop by magnitude, grow by the averaged dense gradient (Dettmers & Zettlemoyer 2019, arXiv 1907.04840).

    As in the RigL paper's comparison (section 2) connections are not redistributed among layers. The average is updated
    at every step, without bias correction (reference: sparse_optimizers.py:126-214), so every step needs the dense
    gradient.

    Attributes:
        grad_average_decay: beta of the average ``m = beta · m + (1 - beta) · g`` of the gradient g, in [0, 1).
    """

    grow_score: Score = scores.gradient_average_magnitude
    grad_average_decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.grad_average_decay < 1, self, "grad_average_decay", "in [0, 1)")
