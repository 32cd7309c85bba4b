"""Figure 7: distributions of every method over sparsity; SNFS over the coefficient of its average.

What to see: ERK is best for every method. There is no claim about the coefficient of SNFS.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from paper import panels
from paper.experiments import Run, declared
from paper.figures.axes import error_axis, sparsity_axis
from paper.figures.curves import Curve, draw_published
from paper.figures.curves import draw as draw_curves
from paper.figures.data import pick, scale_of
from paper.figures.distributions import by_distribution
from paper.figures.style import FULL_WIDTH, METHOD_MARKERS, distribution_style, set_fonts
from paper.figures.sweeps import where
from paper.figures.words import caption, legend_in, protocols_caption, title, verdict_of
from paper.protocols import PROTOCOLS

TICKS = 5.5  # points: .95 and .965 are near each other
METHODS = ("RigL", "SET", "SNFS", "Static")


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Rows of distributions, ours and published, one column a method; then SNFS's momenta."""
    scale = scale_of(results)
    runs, benchmarks = panels.figure_7(scale, 0), panels.SWEPT[scale]
    set_fonts()
    figure = plt.figure(figsize=(FULL_WIDTH, 4.4 + 1.6 * len(benchmarks)), layout="constrained")
    grid = figure.add_gridspec(len(benchmarks) + 2, len(METHODS))
    published = _row(figure, grid, 1)
    places = (0, *range(2, len(benchmarks) + 1))
    ours = [_row(figure, grid, i) for i in places]
    for row, benchmark in zip(ours, benchmarks, strict=True):
        _distributions(row, results, runs, benchmark)
    _published(published, results, scale)
    last = [figure.add_subplot(grid[-1, i]) for i in range(len(benchmarks) + 1)]
    for axis, benchmark in zip(last, benchmarks, strict=False):
        _momenta(axis, results, benchmark)
    last[0].set_ylabel("accuracy (%),\nhigher is better")
    legend_in(last[-1], (*ours[0], *published), "distribution")
    verdict = verdict_of(judged, "7 left", scale, 120)
    figure.suptitle(f"Distributions of every method. {verdict}", fontsize=7.5, x=0.01, ha="left")
    caption(figure, f"{protocols_caption(results, runs)} {_OF_PUBLISHED}")
    return figure


_OF_PUBLISHED = (
    "On the residual network ER is RigL's alone; LeNet-300-100 has no kernels: ER is ERK there. Published bars are "
    "standard deviations; no numbers of the momenta are published. An interval that reaches beyond 99.5 % ends there."
)


def _row(figure: Figure, grid: GridSpec, i: int) -> list[Axes]:
    first = figure.add_subplot(grid[i, 0])
    return [first, *(figure.add_subplot(grid[i, k], sharey=first) for k in range(1, len(METHODS)))]


def _distributions(row: Sequence[Axes], results: pd.DataFrame, runs: Sequence[Run], benchmark: str) -> None:
    protocol = PROTOCOLS[scale_of(results)][benchmark]
    for axis, method in zip(row, METHODS, strict=True):
        curves = by_distribution(runs, benchmark, method)
        draw_curves(axis, results, curves, "sparsity", "accuracy")
        if benchmark == panels.MNIST:
            error_axis(axis)
        sparsity_axis(axis, protocol.sparsities)
        axis.tick_params(axis="x", labelsize=TICKS)
        title(axis, f"Measured: {method}\n{protocol.title.split(',')[0]}")
    row[0].set_ylabel("accuracy (%),\nhigher is better")


def _published(row: Sequence[Axes], results: pd.DataFrame, scale: str) -> None:
    for axis, method in zip(row, METHODS, strict=True):
        draw_published(
            axis, pick(results, benchmark=panels.RESNET), by_distribution([], panels.RESNET, method), "sparsity"
        )
        sparsity_axis(axis, PROTOCOLS[scale][panels.RESNET].sparsities)
        axis.tick_params(axis="x", labelsize=TICKS)
        title(axis, f"Published: {method}\nResNet-50")
    row[0].set_ylabel("accuracy (%),\nhigher is better")


def _momenta(axis: Axes, results: pd.DataFrame, benchmark: str) -> None:
    scale = scale_of(results)
    protocol = PROTOCOLS[scale][benchmark]
    runs = [
        declared(Run(benchmark, "SNFS", protocol.sparsity, protocol.distribution, 0, scale, snfs_momentum=m))
        for m in panels.SNFS_MOMENTA
    ]
    style = {**distribution_style(protocol.distribution), "marker": METHOD_MARKERS["SNFS"]}
    draw_curves(axis, results, [Curve("SNFS", runs, style)], "snfs_momentum", "accuracy")
    axis.set_xlabel("momentum of the average")
    network, sparse = where(scale, benchmark).split(", ", 1)
    title(axis, f"Measured: SNFS, {network}\n{sparse}")
