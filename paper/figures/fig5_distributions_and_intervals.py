"""Figure 5: ResNet-50 with RigL. Left: distributions over sparsity. Right: the cosine sweep of Delta T and alpha.

What to see: ERK is best, and its gain grows with the sparsity; the best interval is near the paper's 100 steps, with
alpha .3 to .5. The lower row is LeNet-300-100, where the differences of a sweep are larger than its noise.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.figures.axes import error_axis, sparsity_axis
from paper.figures.curves import draw as draw_curves
from paper.figures.curves import draw_published
from paper.figures.data import pick, scale_of
from paper.figures.distributions import by_distribution
from paper.figures.style import new_figure
from paper.figures.sweeps import interval_caption, over_intervals
from paper.figures.words import BETTER, caption, legend_in, protocols_caption, title, verdict_of
from paper.protocols import PROTOCOLS

METHOD = "RigL"


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Three columns: distributions, the published ones, and the sweep; one row a benchmark."""
    scale = scale_of(results)
    runs, benchmarks = panels.figure_5(scale, 0), panels.SWEPT[scale]
    figure = new_figure(3, 1.2 + 2.2 * len(benchmarks), n_rows=len(benchmarks), width_ratios=(1, 0.85, 1))
    for row, benchmark in zip(_rows(figure), benchmarks, strict=True):
        ours, _, sweep = row
        protocol = PROTOCOLS[scale][benchmark]
        curves = by_distribution(runs, benchmark, METHOD)
        draw_curves(ours, results, curves, "sparsity", "accuracy")
        if benchmark == panels.MNIST:
            error_axis(ours)
        sparsity_axis(ours, protocol.sparsities)
        over_intervals(sweep, results, benchmark, METHOD, "cosine")
        for axis in (ours, sweep):
            axis.set_ylabel(BETTER["accuracy"])
        network = protocol.title.split(",")[0]
        title(
            ours, f"Measured: {network}", verdict_of(judged, "5 left", scale, 40) if benchmark == panels.RESNET else ""
        )
        is_judged = benchmark == panels.MNIST
        sparse = f"{100 * protocol.sparsity:g} % sparse, {protocol.distribution}"
        title(sweep, f"Measured: {network}\n{sparse}", verdict_of(judged, "5 right", scale, 40) if is_judged else "")
    _published(figure, results, scale)
    caption(figure, f"{protocols_caption(results, runs)} {interval_caption(scale)} {_OF_PUBLISHED}")
    return figure


_OF_PUBLISHED = (
    "LeNet-300-100 has no kernels: ER is ERK there. Published: bars are standard deviations; no numbers of the sweep."
)


def _rows(figure: Figure) -> list[list[Axes]]:
    return [figure.axes[i : i + 3] for i in range(0, len(figure.axes), 3)]


def _published(figure: Figure, results: pd.DataFrame, scale: str) -> None:
    """The published distributions next to the measured ones, and the legends below them."""
    first, theirs, sweep, *others = figure.axes
    curves = by_distribution([], panels.RESNET, METHOD)
    draw_published(theirs, pick(results, benchmark=panels.RESNET), curves, "sparsity")
    theirs.sharex(first)
    sparsity_axis(theirs, PROTOCOLS[scale][panels.RESNET].sparsities)
    title(theirs, "Published: ResNet-50")
    if others:
        legend_in(others[1], (first, theirs, sweep, *others), "distribution (left), α (right)", n_columns=2)
