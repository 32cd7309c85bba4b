"""Figure 7: distributions of every method over sparsity; SNFS over the coefficient of its average.

What to see: ERK best for every method. What the momentum does is reported as found.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.data import own, pick
from paper.figures.distributions import BENCHMARK, by_distribution
from paper.figures.style import caption, curve, handles, look_of, new_figure, published_axis, seeds_caption

METHODS = ("RigL", "SET", "SNFS", "Static")


def draw(results: pd.DataFrame) -> Figure:
    """Four panels of distributions and one of momenta."""
    figure = new_figure(3, 4.2, n_rows=2, share=False)
    *panels, momenta, nothing = figure.axes
    for axis, method in zip(panels, METHODS, strict=True):
        by_distribution(axis, results, method, published_axis(axis, ""))
        axis.set_ylabel("accuracy (%)")
    shown = _momenta(momenta, results)
    nothing.set_axis_off()
    nothing.legend(*handles(panels[0]), frameon=False, title="distribution", loc="center")
    rows = own(pick(results, benchmark=BENCHMARK, method=list(METHODS), multiplier=1.0, decay=["cosine", ""]))
    caption(
        figure,
        seeds_caption([BENCHMARK], pd.concat([rows, shown]))
        + "\nHollow: ResNet-50 on ImageNet as published, right axes.",
    )
    return figure


def _momenta(axis: Axes, results: pd.DataFrame) -> pd.DataFrame:
    rows = pick(own(results), benchmark=BENCHMARK, method="SNFS", distribution="uniform", multiplier=1.0)
    if len(rows):
        swept = rows.groupby("sparsity")["snfs_momentum"].nunique().idxmax()
        rows = pick(rows, sparsity=swept, delta_t=rows["delta_t"].mode()[0], alpha=rows["alpha"].mode()[0])
    curve(axis, rows, "snfs_momentum", "accuracy", "SNFS", **look_of("SNFS"))
    axis.set_xlabel("coefficient of the gradients' average")
    axis.set_ylabel("accuracy (%)")
    axis.set_title("SNFS")
    return rows
