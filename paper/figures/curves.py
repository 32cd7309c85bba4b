"""Curves of declared runs and of published values, each in a panel of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from paper.experiments import Run
from paper.figures.data import MIN_SEEDS, of_runs, own, pick, published, summary
from paper.figures.style import GREY, METHOD_COLOURS, SMALL

DODGE = 2.0 / 72
"""Inches between curves at the same abscissa, so that their intervals are not drawn over each other."""
COSTS = ("training", "inference")
"""Abscissas of measured costs: points are where their costs are."""
LINE: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.0, "capsize": 1.5, "elinewidth": 0.7}


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Attributes:
        label: In the legend.
        runs: Its points, of any seed.
        style: Colour, marker and dashes.
        published: Values of columns that pick its published points; None if there are none.
    """

    label: str
    runs: Sequence[Run]
    style: Mapping[str, Any]
    published: Mapping[str, object] | None = field(default=None)


def draw(axis: Axes, rows: pd.DataFrame, curves: Sequence[Curve], x: str, y: str) -> None:
    """Own means with intervals, hollow where seeds are too few for one; each point has the mean of the column ``x``."""
    for i, curve in enumerate(curves):
        points = _points(rows, curve.runs, x, y)
        if len(points):
            spread = {"yerr": points["interval"].fillna(0.0)}
            _line(axis, points[x], points["mean"], _shift(x, i, len(curves)), curve, **spread)
            few = points[points["n"] < MIN_SEEDS]
            _hollow(axis, few[x], few["mean"], _shift(x, i, len(curves)), curve)
    if not axis.containers:
        no_runs_yet(axis)


def no_runs_yet(axis: Axes) -> None:
    """Say so in a panel that is empty."""
    axis.text(0.5, 0.5, "no runs yet", transform=axis.transAxes, ha="center", va="center", fontsize=SMALL, color=GREY)


def _points(rows: pd.DataFrame, runs: Sequence[Run], x: str, y: str) -> pd.DataFrame:
    of_curve = of_runs(own(rows), runs)
    points = summary(of_curve, "point", y)
    points[x] = points["point"].map(of_curve.groupby("point")[x].mean())
    return points.sort_values(x)


def draw_published(axis: Axes, rows: pd.DataFrame, curves: Sequence[Curve], x: str, y: str = "accuracy") -> None:
    """Published values with their standard deviations where these are published, too."""
    for i, curve in enumerate(curves):
        if curve.published is None:
            continue
        values = pick(published(rows), **curve.published)
        values = values[values[x].notna() & values[y].notna()].sort_values(x)
        if len(values):
            spread = {"yerr": values[f"{y}_std"].fillna(0.0)}
            _line(axis, values[x], values[y], _shift(x, i, len(curves)), curve, **spread)


def _shift(x: str, i: int, n: int) -> float:
    return 0.0 if x in COSTS else (i - (n - 1) / 2) * DODGE


def _line(axis: Axes, x: Any, y: Any, shift: float, curve: Curve, **spread: Any) -> None:
    style = dict(curve.style)
    dashes = style.pop("dashes", None)
    line, caps, bars = axis.errorbar(x, y, **spread, label=curve.label, **{**LINE, **style}).lines
    if dashes is not None:
        line.set_dashes(dashes)
    for part in (line, *caps, *bars):
        _move(axis, part, shift)


def _hollow(axis: Axes, x: Any, y: Any, shift: float, curve: Curve) -> None:
    style = {"color": curve.style["color"], "marker": curve.style["marker"], "markersize": LINE["markersize"]}
    (points,) = axis.plot(x, y, linestyle="none", mfc="white", mew=0.8, zorder=3, **style)
    _move(axis, points, shift)


def _move(axis: Axes, part: Artist, shift: float) -> None:
    """By inches to the right, once it is drawn: the frame is computed from the values."""
    part.set_transform(axis.transData + ScaledTranslation(shift, 0, axis.figure.dpi_scale_trans))


def dense_line(axis: Axes, rows: pd.DataFrame, run: Run, y: str) -> None:
    """The mean of the dense network as a dashed red line."""
    values = of_runs(own(rows), [run])[y].dropna()
    if len(values):
        _horizontal(axis, float(values.mean()))


def published_dense_line(axis: Axes, rows: pd.DataFrame, benchmark: str) -> None:
    """The same of the published dense network."""
    values = pick(published(rows), benchmark=benchmark, method="Dense")["accuracy"].dropna()
    if len(values):
        _horizontal(axis, float(values.mean()))


def _horizontal(axis: Axes, y: float) -> None:
    axis.axhline(y, color=METHOD_COLOURS["Dense"], linestyle="--", linewidth=0.8, label="Dense")


def frame_above(axis: Axes, rows: pd.DataFrame, curves: Sequence[Curve], *left_out: str, note: str = "right") -> None:
    """Let the frame begin below the interquartile range of a panel's means: one point would flatten all others.

    Args:
        axis: Drawn already.
        rows: All.
        curves: Of the panel.
        left_out: Labels of curves that have no say in where the frame begins.
        note: Side of the frame on which points below it are named.
    """
    means = {
        (curve.label, point): value
        for curve in curves
        for point, value in of_runs(own(rows), curve.runs).groupby("point")["accuracy"].mean().items()
    }
    counted = pd.Series([value for (label, _), value in means.items() if label not in left_out])
    if not len(counted):
        return
    low, high = counted.quantile(0.25), counted.quantile(0.75)
    least = counted[counted >= low - OUTLIER * (high - low)].min()
    below = [f"{label} {value:.1f}" for (label, _), value in means.items() if value < least]
    if below:
        top = axis.get_ylim()[1]
        axis.set_ylim(least - MARGIN * (top - least), top)
        text = "below the frame:\n" + ", ".join(below)
        x = {"left": 0.02, "right": 0.98}[note]
        axis.text(x, 0.02, text, transform=axis.transAxes, ha=note, fontsize=SMALL, color=GREY)


OUTLIER = 1.5
"""Interquartile ranges below the lower quartile at which a point is left out of the frame."""
MARGIN = 0.05
