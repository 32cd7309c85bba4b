"""Points in a training: a step as int, or a fraction of all steps as float."""

from __future__ import annotations

import math

from rigl_lightning.base.errors import SettingError

A_POINT = "to be a step (int, at least 0) or a fraction of training (float in [0, 1])"
"""What a point in the training may be, see `is_point`."""


def is_point(value: int | float) -> bool:
    """Whether it is a point in the training: a step, or a fraction of all steps as float.

    >>> is_point(100), is_point(0.5), is_point(1.5), is_point(True)
    (True, True, False, False)
    """
    return not isinstance(value, bool) and 0 <= value < math.inf and (isinstance(value, int) or value <= 1)


def resolved_point(point: int | float, total_steps: int | None, name: str = "the schedule") -> int:
    """A point in steps of a training of ``total_steps``.

    Raises:
        ValueError: If a fraction is to be resolved and the length of training is not known.
    """
    if not isinstance(point, float):
        return point
    if total_steps is None or total_steps < 1:
        raise SettingError(
            f"Expected a known number of training steps to place {name} at {point} of them, got {total_steps}. Set "
            "`max_steps` of the Trainer or `total_steps` of Sparsifier, or give the point as whole steps."
        )
    return round(point * total_steps)


def stretched_point(point: int | float, factor: float) -> int | float:
    """A point in a training ``factor`` times as long: steps are multiplied, fractions stay.

    >>> stretched_point(25_000, 5), stretched_point(0.75, 5)
    (125000, 0.75)
    """
    return point if isinstance(point, float) else round(point * factor)
