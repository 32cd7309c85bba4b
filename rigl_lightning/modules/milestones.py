"""Learning-rate milestones: fractions of a training turned into optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Sequence


def milestone_steps(milestones: Sequence[float], total_steps: float) -> list[int]:
    """Steps after which the learning rate drops.

    Fractions make a schedule stretch with the training multiplier.

    Args:
        milestones: Fractions of the training in (0, 1], increasing.
        total_steps: Optimizer steps of the whole training, ``trainer.estimated_stepping_batches``.

    Raises:
        ValueError: If a fraction is out of range or order, or the length of the training is unknown.

    >>> milestone_steps([0.3072, 0.6144, 0.9216], 97656)
    [30000, 60000, 90000]
    """
    if any(not 0 < fraction <= 1 for fraction in milestones) or list(milestones) != sorted(milestones):
        raise ValueError(
            f"Expected `milestones` as increasing fractions in (0, 1], got {list(milestones)}. "
            "Set --model.init_args.milestones."
        )
    if not milestones:
        return []
    if not math.isfinite(total_steps) or total_steps < 0:
        raise ValueError(
            f"Expected a training of known length for `milestones`, got {total_steps} steps. Set --trainer.max_steps."
        )
    return [round(fraction * total_steps) for fraction in milestones]
