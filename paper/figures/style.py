"""How all figures look."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

DISTRIBUTION_COLOURS = {"uniform": "#7f7f7f", "ER": "#e08214", "ERK": "#1b6ca8"}
# On and off lengths in points, so that the lines are told apart in grey, too.
DISTRIBUTION_DASHES: dict[str, tuple[float, ...]] = {"uniform": (1, 1.5), "ER": (4, 2), "ERK": (1, 0)}

FULL_WIDTH = 7.0  # inches: both columns of a page


def new_figure(n_columns: int, height: float, n_rows: int = 1) -> Figure:
    """An empty figure of the page's width."""
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(FULL_WIDTH, height), layout="constrained")
    figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    return figure


def caption(figure: Figure, text: str) -> None:
    """Scale, n and interval, below the panels."""
    figure.supxlabel(text, fontsize=6.5, color="#444444")
