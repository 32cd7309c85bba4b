"""Figure 10: WRN-22-2. Left: final training loss over sparsity. Right: accuracy of RigL over Delta T.

What to see: Static has the highest training loss at every sparsity, RigL about that of pruning; the best interval is
near the paper's 100 steps.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import Run, configured_updates, declared
from paper.figures.axes import log_ticks, sparsity_axis
from paper.figures.curves import Curve, dense_line
from paper.figures.curves import draw as draw_curves
from paper.figures.data import scale_of
from paper.figures.style import METHOD_MARKERS, distribution_style, new_figure
from paper.figures.sweeps import interval_caption
from paper.figures.words import BETTER, caption, legend_below, protocols_caption, title, verdict_of
from paper.figures.wrn22 import BENCHMARK, over_sparsity
from paper.protocols import PROTOCOLS


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Two panels."""
    scale = scale_of(results)
    runs = panels.figure_10(scale, 0)
    figure = new_figure(2, 3.3)
    left, right = figure.axes
    draw_curves(left, results, over_sparsity(scale), "sparsity", "final_train_loss")
    dense_line(left, results, runs[0], "final_train_loss")
    sparsity_axis(left, PROTOCOLS[scale][BENCHMARK].sparsities)
    left.set_ylabel(BETTER["final_train_loss"])
    title(left, "Measured: WRN-22-2, ERK, mean of the last tenth of the training", verdict_of(judged, "10 left", scale))
    legend_below(left, (left,))
    _intervals(right, results, scale)
    text = f"{protocols_caption(results, runs)} {interval_caption(scale, [BENCHMARK])}"
    caption(figure, f"{text} The loss has no L2 term. No numbers are published.")
    return figure


def _intervals(axis: Axes, results: pd.DataFrame, scale: str) -> None:
    protocol = PROTOCOLS[scale][BENCHMARK]

    def of(distribution: str) -> list[Run]:
        return [
            declared(Run(BENCHMARK, "RigL", protocol.sparsity, distribution, 0, scale, delta_t=delta_t))
            for delta_t in protocol.intervals
        ]

    curves = [Curve(d, of(d), {**distribution_style(d), "marker": METHOD_MARKERS["RigL"]}) for d in ("uniform", "ERK")]
    draw_curves(axis, results, curves, "delta_t", "accuracy")
    log_ticks(axis, protocol.intervals, "ΔT (steps)")
    axis.set_ylabel(BETTER["accuracy"])
    alpha = configured_updates(protocol)[1]
    title(axis, f"Measured: RigL, {100 * protocol.sparsity:g} % sparse, α = {alpha:g}")
    legend_below(axis, (axis,))
