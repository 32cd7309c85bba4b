"""Figure 10: WRN-22-2. Left: final training loss over sparsity. Right: accuracy of RigL over Delta T.

What to see: Static has the highest training loss at every sparsity, RigL about that of pruning; the best interval is
near the paper's 100 steps.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.data import own, pick
from paper.figures.style import (
    DISTRIBUTION_COLOURS,
    DISTRIBUTION_DASHES,
    METHOD_MARKERS,
    caption,
    curve,
    legend,
    log_ticks,
    new_figure,
    seeds_caption,
)
from paper.figures.sweeps import interval_caption
from paper.figures.wrn import BENCHMARK, over_sparsity


def draw(results: pd.DataFrame) -> Figure:
    """Two panels."""
    figure = new_figure(2, 2.8, share=False)
    left, right = figure.axes
    over_sparsity(left, results, "final_train_loss")
    left.set_ylabel("final training loss (nats)")
    left.set_title("mean of the last tenth of the training")
    _intervals(right, results)
    text = seeds_caption([BENCHMARK], own(pick(results, benchmark=BENCHMARK)))
    dt = interval_caption(results, BENCHMARK)
    caption(figure, f"{text}\nThe loss has no L2 term. {dt} No numbers are published.")
    return figure


def _intervals(axis: Axes, results: pd.DataFrame) -> None:
    rows = pick(own(results), benchmark=BENCHMARK, method="RigL", multiplier=1.0)
    if len(rows):
        rows = pick(rows, sparsity=rows.groupby("sparsity")["delta_t"].nunique().idxmax())
    for distribution in ("uniform", "ERK"):
        look: dict[str, Any] = {
            "color": DISTRIBUTION_COLOURS[distribution],
            "dashes": DISTRIBUTION_DASHES[distribution],
        }
        of = pick(rows, distribution=distribution)
        curve(axis, of, "delta_t", "accuracy", distribution, marker=METHOD_MARKERS["RigL"], **look)
    log_ticks(axis, sorted(rows["delta_t"].unique()) or [1])
    axis.set_xlabel("ΔT (steps)")
    axis.set_ylabel("accuracy (%)")
    axis.set_title("RigL, α = 0.3")
    legend(axis)
