"""Figure 4. Left: character GRU, bits per character over training FLOPs. Right: WRN-22-2, accuracy over sparsity.

What to see: pruning best on text, RigL and SNFS improving with longer training; on images RigL above Static at every
sparsity, the more so the sparser.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.data import own, pick
from paper.figures.style import (
    METHOD_COLOURS,
    caption,
    curve,
    dense_line,
    legend,
    log_ticks,
    look_of,
    new_figure,
    seeds_caption,
)
from paper.figures.wrn import BENCHMARK as WRN
from paper.figures.wrn import over_sparsity

GRU = "char_gru"
METHODS = ("Pruning", "RigL", "SET", "SNFS", "Static")
FLOPS_TICKS = (0.1, 0.2, 0.5, 1, 2)


def draw(results: pd.DataFrame) -> Figure:
    """Two panels of two benchmarks."""
    figure = new_figure(2, 3.4, share=False)
    left, right = figure.axes
    _text(left, pick(results, benchmark=GRU))
    over_sparsity(right, results, "accuracy")
    right.set_ylabel("accuracy (%)")
    right.set_title("wide ResNet, images")
    text = seeds_caption([GRU, WRN], own(pick(results, benchmark=[GRU, WRN])))
    caption(
        figure,
        f"{text}\nHollow, right axis: WRN-22-2, 32 pixels, 250 epochs, as the authors published. "
        "For the GRU no number is published.",
    )
    return figure


def _text(axis: Axes, rows: pd.DataFrame) -> None:
    for method in METHODS:
        curve(axis, pick(rows, method=method), "training", "val_bits", method, by="multiplier", **look_of(method))
    dense_line(axis, rows, "val_bits")
    axis.axvline(1.0, color=METHOD_COLOURS["Dense"], linestyle="--", linewidth=0.8)
    log_ticks(axis, FLOPS_TICKS)
    sparsity = own(rows)["sparsity"].max()
    axis.set_title("character GRU" + (f", {100 * sparsity:g} % uniform" if sparsity == sparsity else ""))
    axis.set_xlabel("training FLOPs / those of the dense network")
    axis.set_ylabel("validation bits per character")
    legend(axis)
