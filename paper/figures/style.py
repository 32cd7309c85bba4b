"""How all figures look: one colour and one marker a method everywhere, told apart in grey by the markers and dashes."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Dashes = tuple[float, ...]

DISTRIBUTION_COLOURS = {"uniform": "#7f7f7f", "ER": "#e08214", "ERK": "#1b6ca8"}
# On and off lengths in points, so that the lines are told apart in grey, too.
DISTRIBUTION_DASHES: dict[str, Dashes] = {"uniform": (1, 1.5), "ER": (4, 2), "ERK": (1, 0)}

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
ALPHA_DASHES: dict[float, Dashes] = {0.1: (1, 1.5), 0.3: (4, 2), 0.5: (1, 0)}
VERDICT_COLOURS = {
    "holds": "#1b7837",
    "refuted": "#b2182b",
    "level": "#2166ac",
    "inconclusive": "#999999",
    "not enough runs": "#d9d9d9",
}

FULL_WIDTH = 7.0  # inches: both columns of a page
SMALL = 6.5  # points
GREY = "#444444"


def set_fonts() -> None:
    """Sizes that are read on a page of `FULL_WIDTH`."""
    plt.rcParams.update(
        {
            "font.size": 7.5,
            "axes.titlesize": 7,
            "axes.labelsize": 7,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def new_figure(n_columns: int, height: float, n_rows: int = 1, **subplots: Any) -> Figure:
    """An empty figure of the page's width with a grid of panels."""
    set_fonts()
    figure = plt.figure(figsize=(FULL_WIDTH, height), layout="constrained")
    figure.subplots(n_rows, n_columns, squeeze=False, **subplots)
    return figure


def method_style(method: str) -> dict[str, Any]:
    """Colour and marker of a method."""
    return {"color": METHOD_COLOURS[method], "marker": METHOD_MARKERS[method]}


def distribution_style(distribution: str) -> dict[str, Any]:
    """Colour and dashes of a distribution."""
    return {"color": DISTRIBUTION_COLOURS[distribution], "dashes": DISTRIBUTION_DASHES[distribution]}


def alpha_style(alpha: float) -> dict[str, Any]:
    """Colour, marker and dashes of a drop fraction."""
    return {"color": ALPHA_COLOURS[alpha], "marker": ALPHA_MARKERS[alpha], "dashes": ALPHA_DASHES[alpha]}
