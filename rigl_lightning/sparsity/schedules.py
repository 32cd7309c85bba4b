"""Schedules: at which steps masks are updated, and by how much.

A step is the number of optimizer steps completed before it, so training starts at step 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.points import A_POINT, is_point, resolved_point, stretched_point
from rigl_lightning.sparsity.settings import check_settings, require

Decay = Callable[[float], float]
"""Progress of a window in [0, 1] -> a factor from 1 to 0: on the drop fraction, or on the way to the final sparsity."""


@dataclass(frozen=True)
class UpdateSchedule:
    """Update masks at ``begin``, ``begin + interval``, ... before ``end``.

    The defaults are the paper's (section 4): every 100 steps over the first three quarters of training, step 0
    included. ``begin`` and ``end`` are steps if given as int, and fractions of all steps if given as float, so that
    the window grows with the length of the training.

    Attributes:
        interval: Delta T, in optimizer steps, at least 1.
        begin: First update step, an int, or a fraction in [0, 1].
        end: T_end, an int, or a fraction in (0, 1]. Drop-and-grow updates stop before it; pruning reaches its
            final sparsity at it. The int 1 is step 1, which a training refuses; its end is 1.0.

    >>> schedule = UpdateSchedule(interval=10, end=0.75).resolve(total_steps=40)
    >>> schedule.end, [step for step in range(40) if schedule.is_update(step)]
    (30, [0, 10, 20])
    """

    interval: int = 100
    begin: int | float = 0
    end: int | float = 0.75

    def __post_init__(self) -> None:
        check_settings(self)
        if not isinstance(self.interval, int) or isinstance(self.interval, bool) or self.interval < 1:
            raise SettingError(
                f"Expected `interval` to be a whole number of steps, at least 1, got {self.interval}. "
                "Set the schedule's interval."
            )
        for name in ("begin", "end"):
            if not is_point(value := getattr(self, name)):
                raise SettingError(f"Expected `{name}` {A_POINT}, got {value}. Set the schedule's {name}.")
        if isinstance(self.begin, float) == isinstance(self.end, float) and self.begin > self.end:
            raise SettingError(
                f"Expected `begin` before `end`, got {self.begin} and {self.end}. Set the schedule's begin and end."
            )

    def resolve(self, total_steps: int | None) -> "UpdateSchedule":
        """The same schedule with begin and end in steps of a training of ``total_steps``.

        Raises:
            ValueError: If a fraction is to be resolved and the length of training is not known.
        """
        begin, end = (resolved_point(point, total_steps) for point in (self.begin, self.end))
        return replace(self, begin=begin, end=end)

    def stretched(self, factor: float) -> "UpdateSchedule":
        """The same schedule for a training that is ``factor`` times as long: begin and end move, the interval stays.

        As in the paper (section 4: the anchors of the learning rate and T_end are multiplied, Delta T is not).

        >>> UpdateSchedule(interval=100, begin=200, end=0.75).stretched(5)
        UpdateSchedule(interval=100, begin=1000, end=0.75)
        """
        return replace(self, begin=stretched_point(self.begin, factor), end=stretched_point(self.end, factor))

    def is_update(self, step: int) -> bool:
        """Whether masks are updated at ``step``: ``begin <= step < end``, every ``interval`` steps from begin."""
        begin, end = self._window()
        return begin <= step < end and (step - begin) % self.interval == 0

    def progress(self, step: int) -> float:
        """How far the window has passed at ``step``: 0 at begin, 1 at end and after."""
        begin, end = self._window()
        if step >= end:
            return 1.0
        return (step - begin) / (end - begin) if step > begin else 0.0

    def update_steps(self) -> range:
        """All update steps, in order."""
        begin, end = self._window()
        return range(begin, end, self.interval)

    def _window(self) -> tuple[int, int]:
        if isinstance(self.begin, float) or isinstance(self.end, float):
            raise SettingError(f"Expected a resolved schedule, got {self}. Call resolve(total_steps) first.")
        return self.begin, self.end


def cosine(progress: float) -> float:
    """``(1 + cos(pi · progress)) / 2``: the paper's choice (section 3, "Update Schedule").

    >>> [round(cosine(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:
    """``1`` (paper, appendix "Alternative Update Schedules").

    >>> constant(0.7)
    1.0
    """
    return 1.0


def linear(progress: float) -> float:
    """``1 - progress`` (paper, the same appendix: inverse power with k = 1).

    >>> linear(0.75)
    0.25
    """
    return 1 - progress


@dataclass(frozen=True)
class InversePower:
    """``(1 - progress)^power`` (paper, the same appendix; its captions say "Exponential (k=3)").

    >>> InversePower(3)(0.5)
    0.125
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        check_settings(self)
        require(self.power > 0, self, "power", "above 0")

    def __call__(self, progress: float) -> float:
        """Factor at ``progress`` in [0, 1]."""
        return float((1 - progress) ** self.power)


def cubic(progress: float) -> float:
    """``(1 - progress)^3``: what gradual pruning has left of its way (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1).

    >>> cubic(0.5)
    0.125
    """
    return float((1 - progress) ** 3)


def exponential(progress: float) -> float:
    """``(e^(-5 progress) - e^-5) / (1 - e^-5)``: the same fraction of what is left in every step, and 0 at the end.

    >>> [round(exponential(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.282, 0.076, 0.0]
    """
    return math.expm1(5 * (1 - progress)) / math.expm1(5)


def sigmoid(progress: float) -> float:
    """Slow, fast, slow: ``1 / (1 + e^(6 (progress - 1/2)))``, stretched to go from 1 to 0.

    The density decay of CHTss (Zhang et al. 2025, arXiv 2501.19107, section 3.3, k = 6), whose own curve starts at 0.95
    and ends at 0.05 of the way.

    >>> [round(sigmoid(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.851, 0.5, 0.0]
    """
    return (1 - math.tanh(3 * (progress - 0.5)) / math.tanh(1.5)) / 2
