"""Figure 6. Left: the training loss between a pruned and a static solution. Right: RigL leaves the static one.

What to see: a high barrier on the line; a lower one on curves within the sparse subspace; (nearly) none through the
dense space. Started from the static solution, RigL reaches a lower loss than Static started there.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.data import MIN_SEEDS, protocol_of, summary
from paper.figures.style import METHOD_COLOURS, caption, legend, new_figure

BENCHMARK = "imagenet_resnet50"
RESULTS = ("loss_landscape.csv", "escape.csv")
CURVES = {
    "linear": ("#000000", "-"),
    "sparse quadratic": ("#e08214", "--"),
    "sparse cubic": ("#1b9e77", "-."),
    "dense quadratic": ("#1b6ca8", ":"),
}
DASHES = {"Static": "--", "RigL": "-"}
BAND = 0.15


def draw(results: pd.DataFrame, escape: pd.DataFrame) -> Figure:
    """Two panels: the rows of the landscape, and those of the restarts."""
    figure = new_figure(2, 2.8, share=False)
    left, right = figure.axes
    _landscape(left, results)
    _escape(right, escape)
    n = results["seed"].nunique()
    protocol, scale = protocol_of(results, BENCHMARK), "/".join(results["scale"].unique())
    bands = "; bands: 95 % intervals" if n >= MIN_SEEDS else ""
    caption(
        figure,
        f"{protocol.title}, {100 * protocol.sparsity:g} % uniform ({scale} scale). Means over n = {n} pairs of "
        f"solutions{bands}.\nBoth ends have the pruned network's masks; batch-norm statistics are those of each point. "
        "No numbers are published.",
    )
    return figure


def _landscape(axis: Axes, rows: pd.DataFrame) -> None:
    for name, (colour, dashes) in CURVES.items():
        _line(axis, rows[rows["curve"] == name], "t", "loss", name, colour, dashes)
    axis.set_xlabel("pruned solution  ←  t  →  static solution")
    axis.set_ylabel("training loss (nats)")
    legend(axis, n_columns=2)


def _escape(axis: Axes, rows: pd.DataFrame) -> None:
    for method, dashes in DASHES.items():
        of = rows[rows["method"] == method]
        accuracy = 100 * of.groupby("seed")["final_accuracy"].first().mean()
        _line(
            axis, of, "step", "train_loss", f"{method} (test accuracy {accuracy:.1f} %)", METHOD_COLOURS[method], dashes
        )
    axis.set_xlabel("step after the restart from the static solution")
    axis.set_ylabel("training loss (nats)")
    legend(axis, n_columns=2)


def _line(axis: Axes, rows: pd.DataFrame, x: str, y: str, label: str, colour: str, dashes: str) -> None:
    points = summary(rows, x, y)
    axis.plot(points[x], points["mean"], label=label, color=colour, linestyle=dashes, linewidth=1.2)
    if points["interval"].notna().all():
        low, high = points["mean"] - points["interval"], points["mean"] + points["interval"]
        axis.fill_between(points[x], low, high, color=colour, alpha=BAND, linewidth=0)
