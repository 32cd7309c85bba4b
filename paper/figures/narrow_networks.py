"""A question beyond the paper: RigL's growth by gradient magnitude and other grow rules on narrow networks.

What to see: how far each grow rule is above or below RigL with the same seed, at each sparsity; rules right of the line
are better. The rules are described in ``paper/studies/growth_scores.py``.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import Run
from paper.figures.curves import no_runs_yet
from paper.figures.data import MIN_SEEDS, of_runs, own, scale_of, summary
from paper.figures.style import GREY, METHOD_COLOURS, new_figure
from paper.figures.words import caption, protocols_caption, title, verdict_of
from paper.protocols import PROTOCOLS

BASELINE = "RigL"
N_COLUMNS = 3


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """One panel a network and sparsity; x: points of accuracy above RigL of the same seed; y: grow rules."""
    scale = scale_of(results)
    runs = panels.narrow_networks(scale, 0)
    groups = sorted({(run.benchmark != panels.RESNET, run.benchmark, run.sparsity) for run in runs})
    n_rows = -(-len(groups) // N_COLUMNS)
    figure = new_figure(N_COLUMNS, 0.9 + 1.7 * n_rows, n_rows=n_rows, sharey=True)
    rules = [method for method in dict.fromkeys(run.method for run in runs) if method != BASELINE]
    for axis, (_, benchmark, sparsity) in zip(figure.axes, groups, strict=False):
        of_panel = [run for run in runs if (run.benchmark, run.sparsity) == (benchmark, sparsity)]
        _panel(axis, results, of_panel, rules)
        network = PROTOCOLS[scale][benchmark].title.split(",")[0]
        title(axis, f"{network}, {100 * sparsity:g} % sparse")
    for axis in figure.axes[len(groups) :]:
        axis.set_axis_off()
    verdict = verdict_of(judged, "narrow", scale, 120)
    figure.suptitle(f"Grow rules on narrow networks, ERK. {verdict}", fontsize=7.5, x=0.01, ha="left")
    caption(figure, f"{protocols_caption(results, runs)} Differences are paired by seed; RigL is the line at zero.")
    return figure


def _panel(axis: Axes, results: pd.DataFrame, runs: list[Run], rules: list[str]) -> None:
    rows = of_runs(own(results), runs)
    baseline = rows[rows["method"] == BASELINE].set_index("seed")["accuracy"]
    over = summary(rows.assign(over=rows["accuracy"] - rows["seed"].map(baseline)), "method", "over")
    over = over[over["method"] != BASELINE]
    if over.empty:
        no_runs_yet(axis)
    for point in over.itertuples():
        colour = METHOD_COLOURS.get(point.method, "#6a3d9a")
        half = 0.0 if point.interval != point.interval else point.interval
        face = "white" if point.n < MIN_SEEDS else colour
        axis.errorbar(point.mean, rules.index(point.method), xerr=half, fmt="o", color=colour, mfc=face, markersize=3.5)
    axis.axvline(0, color=GREY, linewidth=0.7)
    axis.set_yticks(range(len(rules)), [rule.removeprefix("RigL, ") for rule in rules])
    axis.set_ylim(len(rules) - 0.4, -0.6)
    axis.set_xlabel("points above RigL, more is better")
