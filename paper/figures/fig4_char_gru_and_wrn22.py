"""Figure 4. Left: character GRU, bits per character over training FLOPs. Right: WRN-22-2, accuracy over sparsity.

What to see: on text pruning is best, and RigL and SNFS improve with longer training. On images RigL is above Static at
every sparsity, and the difference grows with the sparsity. The published values of WRN-22-2 are at the far right.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import Run
from paper.figures.axes import flops_axis, sparsity_axis
from paper.figures.curves import Curve, dense_line, draw_published, published_dense_line
from paper.figures.curves import draw as draw_curves
from paper.figures.data import pick, published, scale_of
from paper.figures.style import method_style, new_figure
from paper.figures.words import BETTER, caption, legend_below, protocols_caption, title, verdict_of
from paper.figures.wrn22 import BENCHMARK as WRN
from paper.figures.wrn22 import over_sparsity
from paper.protocols import PROTOCOLS

GRU = panels.GRU
METHODS = ("Pruning", "RigL", "SET", "SNFS", "Static")


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Three panels: text, ours of the images, and the published ones on the same abscissa."""
    scale = scale_of(results)
    runs = panels.figure_4(scale, 0)
    figure = new_figure(3, 3.5, width_ratios=(1.25, 1, 1))
    text, images, theirs = figure.axes
    _text(text, results, runs)
    curves = over_sparsity(scale)
    draw_curves(images, results, curves, "sparsity", "accuracy")
    dense_line(images, results, next(r for r in runs if (r.benchmark, r.method) == (WRN, "Dense")), "accuracy")
    draw_published(theirs, pick(results, benchmark=WRN), curves, "sparsity")
    published_dense_line(theirs, results, WRN)
    theirs.sharex(images)
    values = published(pick(results, benchmark=WRN))["sparsity"]
    sparsity_axis(theirs, [*PROTOCOLS[scale][WRN].sparsities, *(s for s in values if s > 0)])
    for axis in (images, theirs):
        axis.set_xlabel("sparsity")
        axis.set_ylabel(BETTER["accuracy"])
    gru = PROTOCOLS[scale][GRU]
    what = f"Measured: character GRU, {100 * gru.sparsity:g} % sparse, {gru.distribution}"
    title(text, what, verdict_of(judged, "4 left", scale, 44))
    title(images, "Measured: WRN-22-2, ERK", verdict_of(judged, "4 right", scale, 34))
    title(theirs, "Published: WRN-22-2, ERK")
    legend_below(text, (text,), n_columns=3)
    legend_below(images, (images, theirs), n_columns=2)
    legend_below(theirs, (theirs,), n_columns=2)
    caption(figure, f"{protocols_caption(results, runs)} {_OF_PUBLISHED}")
    return figure


_OF_PUBLISHED = (
    "Published: WRN-22-2 at 32 pixels for 250 epochs, by the authors, without spread; pruning is uniform there. "
    "For the GRU no number is published."
)


def _text(axis: Axes, results: pd.DataFrame, runs: list[Run]) -> None:
    of_text = [run for run in runs if run.benchmark == GRU]
    curves = [Curve(m, [run for run in of_text if run.method == m], method_style(m)) for m in METHODS]
    draw_curves(axis, results, curves, "training", "val_bits")
    dense_line(axis, results, of_text[0], "val_bits")
    flops_axis(axis)
    axis.set_ylabel(BETTER["val_bits"])
