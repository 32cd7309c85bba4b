"""Sparsity that changes in the course of a training, from one number to another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.distributions import Distribution, Shapes, check_sparsity
from rigl_lightning.sparsity.points import A_POINT, is_point, resolved_point, stretched_point
from rigl_lightning.sparsity.schedules import Decay, cubic
from rigl_lightning.sparsity.settings import check_settings
from rigl_lightning.sparsity.structures import Unstructured


@dataclass(frozen=True)
class SparsityRamp:
    """A sparsity that moves from ``initial`` to ``final`` between two points of the training.

    It replaces a number: ``RigL(sparsity=SparsityRamp(0.5, 0.9))``. Masks follow the ramp at their updates. There is an
    update at ``end``, so that the final sparsity is always reached. If the initial sparsity is above the final one, the
    network grows.

    Attributes:
        initial: Sparsity up to ``begin``, in [0, 1).
        final: Sparsity from ``end`` on, in [0, 1).
        begin: When the sparsity begins to change: a step as int, or a fraction of the training as float.
        end: When the final sparsity is reached, as for ``begin``.
        decay: Remaining fraction of the way, as a function of progress from 0 to 1: ``linear``, ``cosine``, ``cubic``,
            ``exponential`` or ``sigmoid`` of `rigl_lightning.sparsity.schedules`, or your own function.

    >>> ramp = SparsityRamp(0.5, 0.9, end=0.5).resolve(200)
    >>> [round(ramp.at(step), 3) for step in (0, 50, 100, 150)]
    [0.5, 0.85, 0.9, 0.9]
    """

    initial: float = 0.0
    final: float = 0.9
    begin: int | float = 0
    end: int | float = 0.5
    decay: Decay = cubic

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("initial", "final"):
            check_sparsity(getattr(self, name), f"`{name}` of SparsityRamp")
        for name in ("begin", "end"):
            value = getattr(self, name)
            if not is_point(value):
                raise SettingError(f"Expected `{name}` {A_POINT}, got {value}. Set `{name}` of SparsityRamp.")

    def resolve(self, total_steps: int | None) -> "SparsityRamp":
        """The same ramp with its points in steps; one to the very end of training arrives at its last step.

        Raises:
            ValueError: If it ends before it begins, or in steps that training does not reach.
        """
        begin, end = (resolved_point(point, total_steps, "a ramp of sparsity") for point in (self.begin, self.end))
        if total_steps is not None and end >= total_steps and isinstance(self.end, float):
            begin, end = min(begin, total_steps - 1), total_steps - 1
        if end < begin or (total_steps is not None and end >= total_steps):
            raise SettingError(
                f"Expected a ramp of sparsity that ends after its begin, {begin}, and before the end of training"
                f"{'' if total_steps is None else f', {total_steps} steps'}, got {end}. "
                "Set `end` of SparsityRamp (of AnnealedTopK: `anneal_end`), for example to a fraction such as 0.5."
            )
        return replace(self, begin=begin, end=end)

    def stretched(self, factor: float) -> "SparsityRamp":
        """The same ramp for a training ``factor`` times as long."""
        return replace(self, begin=stretched_point(self.begin, factor), end=stretched_point(self.end, factor))

    def at(self, step: int) -> float:
        """Sparsity at a step; the ramp must be resolved."""
        return on_the_way({"": self.initial}, {"": self.final}, self._left(step))[""]

    def layer_sparsities(self, distribution: Distribution, shapes: Shapes, step: int) -> dict[str, float]:
        """Sparsity of each layer: each moves from its share of the initial one to its share of the final one.

        Where either is 0 all layers are dense, also where the distribution says otherwise (``custom``).
        """
        dense = dict.fromkeys(shapes, 0.0)
        initial, final = (distribution(shapes, s) if s > 0 else dense for s in (self.initial, self.final))
        return on_the_way(initial, final, self._left(step))

    def _left(self, step: int) -> float:
        if isinstance(self.begin, float) or isinstance(self.end, float):
            raise SettingError(f"Expected a resolved ramp, got {self}. Call resolve(total_steps) first.")
        if step >= self.end:
            return 0.0
        return left_of_way(self.decay, (step - self.begin) / (self.end - self.begin) if step > self.begin else 0.0)


Sparsity = float | SparsityRamp
"""A setting: one number for the whole training, or one that changes."""


def check_sparsity_setting(settings: Any) -> None:
    """Refuse the sparsity of an algorithm if it is no number in [0, 1), and no ramp where that is possible.

    Args:
        settings: Has ``takes_ramp``, ``structure`` and perhaps a ``sparsity``.

    Raises:
        ValueError: Saying which is expected.
    """
    sparsity = getattr(settings, "sparsity", 0.0)
    if not isinstance(sparsity, SparsityRamp):
        check_sparsity(sparsity)
    elif not settings.takes_ramp:
        raise SettingError(
            f"Expected `sparsity` to be a number for {type(settings).__name__}, got {sparsity}: its number of "
            "connections does not follow a ramp. Set `sparsity` of the algorithm."
        )
    elif not isinstance(settings.structure, Unstructured):
        raise SettingError(
            f"Expected `sparsity` to be a number for {settings.structure}, got {sparsity}: the structure has one "
            "number of connections. Set `sparsity` of the algorithm, or leave out its structure."
        )


def left_of_way(decay: Decay, progress: float) -> float:
    """What is left of the way to the final sparsity: all at the begin and nothing at the end, whatever the decay.

    >>> from rigl_lightning.sparsity.schedules import constant, linear
    >>> left_of_way(linear, 0.25), left_of_way(constant, 0.25), left_of_way(constant, 1.0)
    (0.75, 1.0, 0.0)
    """
    return decay(progress) if 0 < progress < 1 else 1.0 - progress


def on_the_way(initial: Mapping[str, float], final: Mapping[str, float], left: float) -> dict[str, float]:
    """Sparsities between two of each layer.

    Args:
        initial: Where each comes from.
        final: Where it goes.
        left: What is left of the way, in [0, 1].

    >>> on_the_way({"a": 0.5}, {"a": 0.9}, 0.25)
    {'a': 0.8}
    """
    return {name: initial[name] + (final[name] - initial[name]) * (1 - left) for name in final}
