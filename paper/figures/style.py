"""How all figures look: one colour and one marker a method everywhere, told apart in grey by the markers and dashes."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from paper.figures.data import MIN_SEEDS, own, protocol_of, published, summary

DISTRIBUTION_COLOURS = {"uniform": "#7f7f7f", "ER": "#e08214", "ERK": "#1b6ca8"}
# On and off lengths in points, so that the lines are told apart in grey, too.
DISTRIBUTION_DASHES: dict[str, tuple[float, ...]] = {"uniform": (1, 1.5), "ER": (4, 2), "ERK": (1, 0)}

METHOD_COLOURS = {
    "Dense": "#b2182b",
    "RigL": "#1b6ca8",
    "SET": "#1b9e77",
    "SNFS": "#e08214",
    "SNIP": "#a6761d",
    "Static": "#7f7f7f",
    "Pruning": "#000000",
    "Small-Dense": "#c51b8a",
    "Big-Sparse": "#6a3d9a",
}
METHOD_MARKERS = {
    "Dense": "_",
    "RigL": "o",
    "SET": "s",
    "SNFS": "D",
    "SNIP": "P",
    "Static": "v",
    "Pruning": "^",
    "Small-Dense": "X",
    "Big-Sparse": "*",
}
ALPHA_COLOURS = {0.1: "#9ecae1", 0.3: "#3182bd", 0.5: "#08306b"}
ALPHA_MARKERS = {0.1: "v", 0.3: "o", 0.5: "^"}

LEGEND_BELOW = -0.22  # of the panel's height: under the label of its abscissa
FULL_WIDTH = 7.0  # inches: both columns of a page
SMALL = 6.5  # points
CAPTION_COLOUR = "#444444"
FRAME_MARGIN = 0.05
CAPTION_WIDTH = 130  # characters


def new_figure(n_columns: int, height: float, n_rows: int = 1, share: bool = True) -> Figure:
    """An empty figure of the page's width; panels of different quantities do not share their axes."""
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(FULL_WIDTH, height), layout="constrained")
    figure.subplots(n_rows, n_columns, sharex=share, sharey=share, squeeze=False)
    return figure


def caption(figure: Figure, text: str) -> None:
    """Scale, n and interval, below the panels."""
    lines = [line for paragraph in text.split("\n") for line in wrap(paragraph, CAPTION_WIDTH)]
    figure.supxlabel("\n".join(lines), fontsize=SMALL, color=CAPTION_COLOUR)


def seeds_caption(benchmarks: Sequence[str], rows: pd.DataFrame) -> str:
    """What was measured, with the scale, and how many seeds its points have.

    Args:
        benchmarks: Whose titles are given, in the order of the panels.
        rows: Own runs of the figure.
    """
    what = ". ".join(protocol_of(rows, benchmark).title for benchmark in benchmarks)
    if not len(rows):
        return f"{what}: no runs yet. Hollow: published values, right axis."
    key = [
        "benchmark",
        "method",
        "distribution",
        "sparsity",
        "multiplier",
        "delta_t",
        "alpha",
        "decay",
        "snfs_momentum",
    ]
    n = rows.groupby(key, dropna=False)["seed"].nunique()
    seeds = f"n = {n.min()}" if n.min() == n.max() else f"n = {n.min()} to {n.max()} seeds a point"
    scale = "/".join(sorted(rows["scale"].unique()))
    where = "" if n.min() >= MIN_SEEDS else f" where n is at least {MIN_SEEDS}"
    return f"{what} ({scale} scale). Means, {seeds}; bars: 95 % intervals{where}."


def curve(axis: Axes, rows: pd.DataFrame, x: str, y: str, label: str, by: str = "", **look: Any) -> None:
    """A line of own means over ``x`` with intervals.

    Args:
        axis: Where to draw.
        rows: Runs of one curve.
        x: Column of the abscissa; its mean is used if the runs are grouped by another one.
        y: Column of the ordinate.
        label: In the legend.
        by: Column that tells the points apart, if not ``x``: training FLOPs differ between equal runs of SNIP, say.
        look: Of the line: color, marker, dashes, ...
    """
    measured = own(rows)
    if not len(measured):
        return
    points = summary(measured, by or x, y)
    if by:
        points[x] = points[by].map(measured.groupby(by)[x].mean())
    points = points.sort_values(x)
    dashes = look.pop("dashes", None)
    line = axis.errorbar(
        points[x], points["mean"], points["interval"].fillna(0.0), label=label, **{**_LINE, **look}
    ).lines[0]
    if dashes is not None:
        line.set_dashes(dashes)


def hollow(axis: Axes, rows: pd.DataFrame, x: str, y: str = "accuracy", **look: Any) -> None:
    """The published values of one curve, as hollow markers on the axis of published values."""
    values = published(rows)
    values = values[values[x].notna() & values[y].notna()].sort_values(x)
    if not len(values):
        return
    settings = {"linestyle": ":", **look, "markerfacecolor": "none", "markersize": 3.5, "linewidth": 0.5, "alpha": 0.7}
    axis.plot(values[x], values[y], **settings)


_LINE: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.0, "capsize": 1.5, "elinewidth": 0.7}


def look_of(method: str) -> dict[str, Any]:
    """Colour and marker of a method."""
    return {"color": METHOD_COLOURS[method], "marker": METHOD_MARKERS[method]}


def published_axis(axis: Axes, label: str = "published (%), hollow") -> Axes:
    """A right axis for published values, which belong to other networks and data than the own ones."""
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.set_ylabel(label, fontsize=SMALL, color=CAPTION_COLOUR)
    right.tick_params(labelsize=SMALL, colors=CAPTION_COLOUR)
    return right


def leave_out(axis: Axes, rows: pd.DataFrame, y: str, least: float) -> None:
    """Let the frame begin just below ``least``, and say which methods lie beneath it: one would flatten all others."""
    means = rows.groupby("method")[y].mean()
    below = means[means < least]
    if len(below):
        axis.set_ylim(bottom=least - FRAME_MARGIN * (axis.get_ylim()[1] - least))
        names = ", ".join(f"{method} {mean:.1f}" for method, mean in below.items())
        axis.text(0.98, 0.02, f"below the frame: {names}", transform=axis.transAxes, ha="right", fontsize=SMALL)


def dense_line(axis: Axes, rows: pd.DataFrame, y: str) -> None:
    """The dense network's mean as a dashed red line."""
    dense = own(rows)
    dense = dense[(dense["method"] == "Dense") & dense[y].notna()]
    if len(dense):
        axis.axhline(dense[y].mean(), color=METHOD_COLOURS["Dense"], linestyle="--", linewidth=0.8, label="Dense")


def log_ticks(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic abscissa with these ticks, written as numbers."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(list(values)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def sparsity_ticks(axis: Axes, rows: pd.DataFrame) -> None:
    """An abscissa of densities, logarithmic and falling: .8, .9 and .95 are apart as their costs are."""
    shown = own(rows) if len(own(rows)) else rows
    sparsities = sorted({float(s) for s in shown["sparsity"] if s > 0})
    axis.set_xscale("function", functions=(_to_position, _to_sparsity))
    axis.xaxis.set_major_locator(FixedLocator(sparsities))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.set_xlabel("sparsity")


def _to_position(sparsity: Any) -> Any:
    import numpy as np

    return -np.log(np.clip(1 - np.asarray(sparsity), 1e-6, None))


def _to_sparsity(position: Any) -> Any:
    import numpy as np

    return 1 - np.exp(-np.asarray(position))


def handles(axis: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels of the curves, each without the bars of its intervals."""
    found, labels = axis.get_legend_handles_labels()
    return [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in found], labels


def legend(axis: Axes, n_columns: int = 3) -> None:
    """Below the panel, where no curve runs; nothing if nothing has a label."""
    found, labels = handles(axis)
    if found:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, LEGEND_BELOW), "ncols": n_columns}
        axis.legend(found, labels, frameon=False, fontsize=SMALL, handlelength=2.6, labelspacing=0.25, **place)
