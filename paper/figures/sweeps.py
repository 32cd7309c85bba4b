"""Accuracy over Delta T for each drop fraction: panels of figures 5, 8 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.data import own, pick, usual_interval
from paper.figures.style import (
    ALPHA_COLOURS,
    ALPHA_MARKERS,
    caption,
    curve,
    legend,
    log_ticks,
    new_figure,
    seeds_caption,
)

BENCHMARK = "imagenet_resnet50"
DASHES: dict[float, tuple[float, ...]] = {0.1: (1, 1.5), 0.3: (4, 2), 0.5: (1, 0)}


def sweep_figure(results: pd.DataFrame, panels: Sequence[tuple[str, str]]) -> Figure:
    """One panel for each method and decay."""
    figure = new_figure(len(panels), 2.6)
    shown = [over_intervals(axis, results, *panel) for axis, panel in zip(figure.axes, panels, strict=True)]
    figure.axes[0].set_ylabel("accuracy (%)")
    legend(figure.axes[0])
    text = seeds_caption([BENCHMARK], pd.concat(shown))
    caption(figure, f"{text}\n{interval_caption(results)} No numbers are published.")
    return figure


def interval_caption(results: pd.DataFrame, benchmark: str = BENCHMARK) -> str:
    """Which of the intervals takes the place of the paper's."""
    return f"ΔT = {usual_interval(results, benchmark)} stands for the paper's 100."


def over_intervals(axis: Axes, results: pd.DataFrame, method: str, decay: str) -> pd.DataFrame:
    """One curve an alpha; returns the rows shown."""
    rows = of_sweep(results, method, decay)
    for alpha, colour in ALPHA_COLOURS.items():
        look: dict[str, Any] = {"color": colour, "marker": ALPHA_MARKERS[alpha], "dashes": DASHES[alpha]}
        curve(axis, pick(rows, alpha=alpha), "delta_t", "accuracy", f"α = {alpha:g}", **look)
    log_ticks(axis, sorted(rows["delta_t"].unique()) or [1])
    axis.set_xlabel("ΔT (steps)")
    axis.set_title(f"{method}, {decay}")
    return rows


def of_sweep(results: pd.DataFrame, method: str, decay: str) -> pd.DataFrame:
    """Own runs of a method and a decay at the sparsity and the distribution that were swept."""
    rows = pick(own(results), benchmark=BENCHMARK, method=method, decay=decay, multiplier=1.0, distribution="uniform")
    rows = rows[rows["snfs_momentum"].isna() | rows["snfs_momentum"].eq(0.9)]
    if not len(rows):
        return rows
    swept = rows.groupby("sparsity")["alpha"].nunique().idxmax()
    return pick(rows, sparsity=swept)
