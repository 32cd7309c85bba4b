"""Axes of the figures: logarithmic costs, falling densities, and accuracies that are logarithmic in their error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from paper.figures.style import METHOD_COLOURS

SPACE = 0.1
"""Of an abscissa's range, before its first and after its last value."""
ERROR_TICKS = (1, 2, 5, 10, 20, 50, 80)
LEAST_ERROR = 0.5
"""Percent: an interval that reaches beyond ends there, since the logarithm of an error of 0 is nowhere."""
FLOPS_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


def log_ticks(axis: Axes, values: Sequence[float], label: str = "") -> None:
    """A logarithmic abscissa with these ticks, written as numbers; those outside the frame are not drawn."""
    axis.set_xscale("log")
    _named(axis, values, label)


def flops_axis(axis: Axes, what: str = "training") -> None:
    """FLOPs relative to those of the dense network, whose own are a line."""
    axis.axvline(1.0, color=METHOD_COLOURS["Dense"], linestyle="--", linewidth=0.8)
    log_ticks(axis, FLOPS_TICKS, f"{what} FLOPs, dense network = 1")


def sparsity_axis(axis: Axes, sparsities: Sequence[float]) -> None:
    """An abscissa of densities, logarithmic and falling: .8, .9 and .95 are apart as their costs are.

    It has all of ``sparsities``, whichever of them have runs.
    """
    axis.set_xscale("function", functions=(_to_position, _to_sparsity))
    _named(axis, sorted(set(sparsities)), "sparsity")
    first, last = _to_position(min(sparsities)), _to_position(max(sparsities))
    space = SPACE * max(last - first, 1e-2)
    axis.set_xlim(_to_sparsity(first - space), _to_sparsity(last + space))


def error_axis(axis: Axes) -> None:
    """An ordinate of accuracies in percent that is logarithmic in the error: chance and 98 % are both in the frame."""
    axis.set_yscale("function", functions=(_to_height, _to_accuracy))
    axis.yaxis.set_major_locator(FixedLocator([100 - error for error in ERROR_TICKS]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda accuracy, _: f"{accuracy:g}"))


def _named(axis: Axes, values: Sequence[float], label: str) -> None:
    axis.xaxis.set_major_locator(FixedLocator(list(values)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelbottom=True)  # in each row, also where panels share their abscissa
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".removeprefix("0") or "0"))
    if label:
        axis.set_xlabel(label)


def _to_position(sparsity: Any) -> Any:
    return -np.log(np.clip(1 - np.asarray(sparsity), 1e-6, None))


def _to_sparsity(position: Any) -> Any:
    return 1 - np.exp(-np.asarray(position))


def _to_height(accuracy: Any) -> Any:
    return -np.log(np.clip(100 - np.asarray(accuracy), LEAST_ERROR, None))


def _to_accuracy(height: Any) -> Any:
    return 100 - np.exp(-np.asarray(height))
