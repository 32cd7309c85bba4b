"""Accuracy against training FLOPs of every method at the small scale: the README's picture.

What to see: methods that never hold a dense network are at the left; among them those that move connections are above
static masks; what is above them pays with dense FLOPs.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.style import METHOD_COLOURS, METHOD_MARKERS

RESULTS = "small.csv"
_EMPHASISED = ("Dense", "Static", "RigL")
_REST = "#555555"  # of methods that no figure of the paper has
_GAP = 0.075  # points of accuracy between two names of a list


def draw(accuracies: pd.DataFrame) -> Figure:
    """The picture of the rows of `paper.tables.methods.rows`: mean and standard deviation over the seeds.

    Methods more than three points below the static network are named beside the panel instead of drawn.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    static = float(accuracies.loc[accuracies["method"] == "Static", "accuracy"].iloc[0])
    shown = accuracies[accuracies["accuracy"] > static - 3]
    groups = [rows for _, rows in shown.groupby(shown["train_flops"].lt(0.06), sort=False)]
    for rows in groups:
        _points(axis, rows)
    hidden = accuracies[accuracies["accuracy"] <= static - 3]
    below = ", ".join(f"{row.method} {row.accuracy:.1f} ± {row.accuracy_std:.1f} %" for row in hidden.itertuples())
    axis.set(
        xscale="log",
        xlim=(0.022, 1.6),
        ylim=(static - 0.2, None),
        xlabel="training FLOPs, dense network = 1",
        ylabel="test accuracy (%)",
    )
    axis.set_xticks([0.05, 0.1, 0.2, 0.5, 1.0], ["0.05", "0.1", "0.2", "0.5", "1"])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    n = f"{accuracies['n'].min()}" if accuracies["n"].nunique() == 1 else f"{accuracies['n'].min()} or more"
    axis.set_title(f"LeNet-300-100 on MNIST, 95 % sparse, 5 epochs, n = {n}, ± 1 s.d.", fontsize=9)
    if below:
        axis.text(
            0.99, 0.02, f"below the frame: {below}", transform=axis.transAxes, ha="right", fontsize=7, color=_REST
        )
    return figure


def _points(axis: Axes, rows: pd.DataFrame) -> None:
    """Points with their names: beside them, or in a list at the left with a line to each where there are many."""
    ordered = rows.sort_values("accuracy", ascending=False)
    middle, crowded = (ordered["accuracy"].max() + ordered["accuracy"].min()) / 2, len(rows) > 8
    for i, (method, x, y, spread) in enumerate(
        zip(ordered["method"], ordered["train_flops"], ordered["accuracy"], ordered["accuracy_std"], strict=True)
    ):
        colour, marker = METHOD_COLOURS.get(method, _REST), METHOD_MARKERS.get(method, ".")
        axis.errorbar(x, y, yerr=spread, fmt=marker, color=colour, markersize=5, elinewidth=0.8)
        listed = (0.041, middle + _GAP * ((len(rows) - 1) / 2 - i))
        axis.annotate(
            method,
            (x, y),
            listed if crowded else (1.08 * x, y),
            fontsize=7.5,
            color=colour,
            weight="bold" if method in _EMPHASISED else "normal",
            ha="right" if crowded else "left",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 3, "relpos": (1, 0.5)}
            if crowded
            else None,
        )
