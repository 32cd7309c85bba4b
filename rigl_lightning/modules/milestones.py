"""Learning-rate schedule: fractions of a training turned into optimizer steps, and those into factors."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial


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
            "Set `milestones` of the module."
        )
    if not milestones:
        return []
    if not math.isfinite(total_steps) or total_steps < 0:
        raise ValueError(
            f"Expected a training of known length for `milestones`, got {total_steps} steps. Set `max_steps` of "
            "the Trainer."
        )
    return [round(fraction * total_steps) for fraction in milestones]


def warmup_steps(warmup: float, total_steps: float) -> int:
    """Steps during which the learning rate rises.

    Args:
        warmup: Fraction of the training in [0, 1).
        total_steps: As in `milestone_steps`.

    Raises:
        ValueError: If the fraction is out of range, or the length of the training is unknown.

    >>> warmup_steps(0.048873, 32000)  # 5 epochs of ImageNet in batches of 4096
    1564
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"Expected `warmup` in [0, 1), got {warmup}. Set `warmup` of the module.")
    if not warmup:
        return 0
    if not math.isfinite(total_steps) or total_steps < 0:
        raise ValueError(
            f"Expected a training of known length for `warmup`, got {total_steps} steps. Set `max_steps` of the "
            "Trainer."
        )
    return round(warmup * total_steps)


def learning_rate_factor(step: int, n_warmup: int, milestones: Sequence[int], decay: float) -> float:
    """Factor on the learning rate: a line from 0 to 1, then 1, and times ``decay`` from each milestone on.

    As in the authors' code (rigl/imagenet_resnet/imagenet_train_eval.py, ``lr_schedule``, commit d39fc7d) the very
    first step has the learning rate 0.

    Args:
        step: Optimizer steps completed.
        n_warmup: Steps of the rise.
        milestones: Steps, increasing.
        decay: Factor at each.

    >>> [learning_rate_factor(step, 4, [6, 8], 0.5) for step in (0, 1, 4, 5, 6, 8)]
    [0.0, 0.25, 1.0, 1.0, 0.5, 0.25]
    """
    rise = min(1.0, step / n_warmup) if n_warmup else 1.0
    return float(rise * decay ** bisect_right(milestones, step))


def learning_rate_schedule(
    warmup: float, milestones: Sequence[float], decay: float, total_steps: float
) -> Callable[[int], float]:
    """`learning_rate_factor` of a training of ``total_steps``, for ``LambdaLR``; all else as there, in fractions."""
    n_warmup, steps = warmup_steps(warmup, total_steps), milestone_steps(milestones, total_steps)
    return partial(learning_rate_factor, n_warmup=n_warmup, milestones=steps, decay=decay)
