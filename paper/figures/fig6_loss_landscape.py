"""Figure 6. Left: the training loss between a pruned and a static solution. Right: RigL leaves the static one.

What to see: the barrier is high on the line, lower on curves within the sparse subspace, and nearly zero through the
dense space. Started from the static solution, RigL reaches a lower loss than Static started there.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.figures.data import MIN_SEEDS, summary
from paper.figures.style import METHOD_COLOURS, new_figure
from paper.figures.words import caption, legend_below, title, verdict_of
from paper.protocols import PROTOCOLS

BENCHMARK = panels.RESNET
RESULTS = ("loss_landscape.csv", "escape.csv")
CURVES = {
    "linear": ("#000000", "-"),
    "sparse quadratic": ("#e08214", "--"),
    "sparse cubic": ("#1b9e77", "-."),
    "dense quadratic": ("#1b6ca8", ":"),
}
DASHES = {"Static": "--", "RigL": "-"}
BAND = 0.15
LOSS_EVERY = 10
"""Steps that a row of the escape is the mean of."""
SMOOTHED = 10
"""Rows that a point of the drawn curve is the mean of."""


def draw(landscape: pd.DataFrame, escape: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Two panels: the rows of the landscape, and those of the restarts."""
    figure = new_figure(2, 3.4)
    left, right = figure.axes
    scale = "/".join(landscape["scale"].unique())
    _landscape(left, landscape)
    _escape(right, escape)
    title(left, "Measured: between a pruned and a static solution", verdict_of(judged, "6 left", scale))
    title(right, "Measured: from the static solution on", verdict_of(judged, "6 right", scale))
    caption(figure, _caption(landscape, scale))
    return figure


def _caption(landscape: pd.DataFrame, scale: str) -> str:
    protocol, n = PROTOCOLS[scale][BENCHMARK], landscape["seed"].nunique()
    bands = "; bands and intervals: 95 %" if n >= MIN_SEEDS else ""
    return (
        f"Measured: {protocol.title}, {100 * protocol.sparsity:g} % sparse, {protocol.distribution} ({scale} scale). "
        f"Means over n = {n} pairs of solutions{bands}. Both ends have the pruned network's masks; batch-norm "
        f"statistics are those of each point. Right: running means of {SMOOTHED * LOSS_EVERY} steps. No numbers are "
        "published."
    )


def _landscape(axis: Axes, rows: pd.DataFrame) -> None:
    for name, (colour, dashes) in CURVES.items():
        _line(axis, rows[rows["curve"] == name], "t", "loss", name, colour, dashes)
    axis.set_xlabel("pruned solution  ←  t  →  static solution")
    axis.set_ylabel("training loss (nats), lower is better")
    legend_below(axis, (axis,), n_columns=2)


def _escape(axis: Axes, rows: pd.DataFrame) -> None:
    for method, dashes in DASHES.items():
        of = rows[rows["method"] == method].sort_values(["seed", "step"])
        smoothed = of.assign(
            train_loss=of.groupby("seed")["train_loss"].transform(lambda loss: loss.rolling(SMOOTHED).mean())
        )
        label = f"{method}: test accuracy {_final_accuracy(of)} %"
        _line(axis, smoothed, "step", "train_loss", label, METHOD_COLOURS[method], dashes)
    axis.set_xlabel("step after the restart from the static solution")
    axis.set_ylabel("training loss (nats), lower is better")
    legend_below(axis, (axis,), n_columns=1)


def _final_accuracy(rows: pd.DataFrame) -> str:
    of_seeds = 100 * rows.groupby("seed")["final_accuracy"].first()
    table = summary(pd.DataFrame({"x": 0, "accuracy": of_seeds}), "x", "accuracy").iloc[0]
    return f"{table['mean']:.1f}" + (f" ± {table['interval']:.1f}" if table["n"] >= MIN_SEEDS else "")


def _line(axis: Axes, rows: pd.DataFrame, x: str, y: str, label: str, colour: str, dashes: str) -> None:
    points = summary(rows, x, y)
    axis.plot(points[x], points["mean"], label=label, color=colour, linestyle=dashes, linewidth=1.2)
    if points["interval"].notna().all():
        low, high = points["mean"] - points["interval"], points["mean"] + points["interval"]
        axis.fill_between(points[x], low, high, color=colour, alpha=BAND, linewidth=0)
