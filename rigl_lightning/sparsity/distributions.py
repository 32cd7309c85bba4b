"""Distributions: how a total sparsity is shared among the layers (paper, section 3, "Sparsity Distribution").

A distribution is called with the shapes of the sparse layers, in the order of the network, and the total sparsity,
and returns the sparsity of each layer. Shapes are torch's: (out, in) or (out, in / groups, *kernel).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.counts import ROUNDING, Shapes, active_counts, n_active
from rigl_lightning.sparsity.names import matching_names
from rigl_lightning.sparsity.settings import check_settings, plain, require

__all__ = ["Distribution", "ErdosRenyi", "Shapes", "Uniform", "active_counts", "check_sparsity", "n_active"]


def check_sparsity(sparsity: float, setting: str = "`sparsity` of the algorithm") -> None:
    """Raise a ValueError for what is no sparsity in [0, 1)."""
    if not isinstance(plain(sparsity), int | float) or not 0 <= sparsity < 1:
        raise SettingError(f"Expected `sparsity` in [0, 1), got {sparsity!r}. Set {setting}.")


class Distribution(ABC):
    """Base of the distributions. A subclass answers `_free_sparsities` for the layers without a fixed sparsity."""

    dense: tuple[str, ...]
    custom: Mapping[str, float]

    def __post_init__(self) -> None:
        check_settings(self)
        require(math.isfinite(getattr(self, "power", 1)), self, "power", "to be finite")

    def __call__(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """Sparsity of each layer.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            sparsity: Total sparsity in [0, 1).

        Returns:
            Sparsity in [0, 1) by name, in the order of ``shapes``. At least one connection a layer stays active.

        Raises:
            ValueError: If the sparsity is out of range, a pattern names no layer, or the total cannot be reached.
        """
        check_sparsity(sparsity)
        fixed = self._custom_sparsities(shapes)
        rest = {name: shape for name, shape in shapes.items() if name not in fixed}
        dense = [name for name in self._dense_layers(shapes) if name in rest]
        shared = self._free_sparsities(rest, sparsity, dense) if rest else {}
        return {name: fixed[name] if name in fixed else shared[name] for name in shapes}

    @abstractmethod
    def _free_sparsities(self, shapes: Shapes, sparsity: float, dense: Sequence[str]) -> dict[str, float]:
        """Sparsity of each layer of ``shapes``, those in ``dense`` being 0."""

    def _dense_layers(self, shapes: Shapes) -> list[str]:
        return [name for pattern in self.dense for name in matching_names(pattern, shapes, "distribution.dense")]

    def _custom_sparsities(self, shapes: Shapes) -> dict[str, float]:
        fixed: dict[str, float] = {}
        for pattern, value in self.custom.items():
            check_sparsity(value, f"`custom` of the distribution for {pattern!r}")
            fixed.update(dict.fromkeys(matching_names(pattern, shapes, "distribution.custom"), value))
        return fixed


@dataclass(frozen=True)
class Uniform(Distribution):
    """The same sparsity in every layer but the first, which stays dense (paper, section 3).

    Attributes:
        first_layer_dense: Keep the first layer dense. Other layers do not become sparser for it, so the network is a
            little denser than the sparsity, as in the paper.
        dense: Name patterns of further layers that stay dense.
        custom: Name pattern -> sparsity of that layer, instead of the common one.

    >>> Uniform()({"conv.weight": (8, 3, 3, 3), "fc.weight": (10, 8)}, 0.9)
    {'conv.weight': 0.0, 'fc.weight': 0.9}
    """

    first_layer_dense: bool = True
    dense: tuple[str, ...] = ()
    custom: Mapping[str, float] = field(default_factory=dict)

    def _free_sparsities(self, shapes: Shapes, sparsity: float, dense: Sequence[str]) -> dict[str, float]:
        return {name: 0.0 if name in dense else sparsity for name in shapes}

    def _dense_layers(self, shapes: Shapes) -> list[str]:
        return [*super()._dense_layers(shapes), *list(shapes)[: int(self.first_layer_dense)]]


@dataclass(frozen=True)
class ErdosRenyi(Distribution):
    """Density of a layer proportional to ``(n_in + n_out [+ kernel sizes]) / (n_in · n_out [· kernel sizes])``.

    With ``kernel`` this is ERK, the paper's proposal (section 3); without it ER (Mocanu et al. 2018), which leaves
    the kernel sizes out. A layer whose density would exceed 1 is made dense and its surplus goes to the others, the
    most saturated layers first, as in the reference (rigl/sparse_utils.py:90-207, commit d39fc7d).

    The total is exact: the mean sparsity of all layers that are not in ``custom``, weighted by size, is the given one.

    Attributes:
        kernel: Count kernel sizes (ERK) or not (ER).
        power: Exponent on the layer's ratio ("erk_power_scale" of the reference); 0 gives the same density everywhere.
        dense: Name patterns of layers that stay dense; the other layers become sparser for them.
        custom: Name pattern -> sparsity of that layer, which is not part of the total.

    >>> sparsities = ErdosRenyi()({"first.weight": (10, 10), "second.weight": (30, 10)}, 0.5)
    >>> {name: round(value, 3) for name, value in sparsities.items()}  # densities 3 : 2, as 20/100 : 40/300
    {'first.weight': 0.333, 'second.weight': 0.556}
    """

    kernel: bool = True
    power: float = 1.0
    dense: tuple[str, ...] = ()
    custom: Mapping[str, float] = field(default_factory=dict)

    def _free_sparsities(self, shapes: Shapes, sparsity: float, dense: Sequence[str]) -> dict[str, float]:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        budget = (1 - sparsity) * sum(sizes.values())
        ratios = {name: self._ratio(shape) ** self.power for name, shape in shapes.items()}
        saturated = set(dense)
        while True:
            free = [name for name in sizes if name not in saturated]
            left = budget - sum(sizes[name] for name in saturated)
            _check_budget(left, budget, free, saturated)
            if not free:
                break
            scale = left / sum(ratios[name] * sizes[name] for name in free)
            largest = max(ratios[name] for name in free)
            if scale * largest <= 1:
                break
            saturated.update(name for name in free if ratios[name] == largest)
        return {name: 0.0 if name in saturated else 1 - scale * ratios[name] for name in sizes}

    def _ratio(self, shape: Sequence[int]) -> float:
        dimensions = shape if self.kernel else shape[:2]
        return sum(dimensions) / math.prod(dimensions)


def _check_budget(left: float, budget: float, free: Sequence[str], saturated: Iterable[str]) -> None:
    if left + ROUNDING < len(free):
        raise SettingError(
            f"Expected a sparsity that leaves every layer a connection, got {budget:.0f} connections in all, of which "
            f"{budget - left:.0f} go to dense layers ({', '.join(sorted(saturated)) or 'none'}) and {left:.0f} remain "
            f"for {len(free)} sparse layers. Lower `sparsity` of the algorithm or shorten `dense` of the distribution."
        )
