"""Figure 2: ResNet-50. Left: accuracy over training FLOPs. Right: accuracy over sparsity.

What to see: at equal FLOPs RigL above SET, Small-Dense and Static; RigL gains with longer training; extended RigL
reaches pruning at every sparsity.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.data import PUBLISHED, own, pick, protocol_of, usual_updates
from paper.figures.style import (
    METHOD_COLOURS,
    caption,
    curve,
    dense_line,
    hollow,
    leave_out,
    legend,
    log_ticks,
    look_of,
    new_figure,
    published_axis,
    seeds_caption,
    sparsity_ticks,
)

BENCHMARK = "imagenet_resnet50"
METHODS = ("Pruning", "RigL", "SET", "SNFS", "SNIP", "Small-Dense", "Static")
PUBLISHED_SPARSITY = 0.8
FLOPS_TICKS = (0.1, 0.2, 0.5, 1, 2, 5)
EXTENDED = "extended"  # the paper's is 5; that of own runs is their protocol's
PUBLISHED_EXTENDED = 5.0
# method, distribution, multiplier, dashes
OVER_SPARSITY = (
    ("RigL", "uniform", 1.0, (1, 1.5)),
    ("RigL", "uniform", EXTENDED, (4, 2)),
    ("RigL", "ERK", 1.0, (5, 1, 1, 1)),
    ("RigL", "ERK", EXTENDED, (1, 0)),
    ("Small-Dense", "", EXTENDED, (1, 0)),
    ("Pruning", "uniform", 1.0, (1, 1.5)),
    ("Pruning", "uniform", 1.5, (1, 0)),
)


def draw(results: pd.DataFrame) -> Figure:
    """Two panels: over training FLOPs relative to the dense network's, and over sparsity."""
    rows = usual_updates(pick(results, benchmark=BENCHMARK))
    figure = new_figure(2, 3.6, share=False)
    left, right = figure.axes
    sparsity = _main_sparsity(own(rows))
    _over_flops(left, rows, sparsity)
    _over_sparsity(right, rows)
    text = seeds_caption([BENCHMARK], own(rows))
    hollow_at = f"(left: {100 * PUBLISHED_SPARSITY:g} % sparse)"
    caption(figure, f"{text}\nHollow, right axes: ResNet-50 on ImageNet as published {hollow_at}.")
    return figure


def _over_flops(axis: Axes, rows: pd.DataFrame, sparsity: float) -> None:
    right = published_axis(axis)
    for method in METHODS:
        of = pick(rows, method=method, distribution=["uniform", ""])
        curve(axis, pick(of, sparsity=sparsity), "training", "accuracy", method, by="multiplier", **look_of(method))
        digitised = of[of["sparsity"].eq(PUBLISHED_SPARSITY) & of["source"].eq("ICLR Fig. 2 left, digitised")]
        hollow(right, digitised, "training", **look_of(method))
    dense_line(axis, rows, "accuracy")
    measured = pick(own(rows), method=list(METHODS), sparsity=sparsity)
    leave_out(axis, measured, "accuracy", measured.loc[measured["method"].ne("SNIP"), "accuracy"].min())
    axis.axvline(1.0, color=METHOD_COLOURS["Dense"], linestyle="--", linewidth=0.8)
    log_ticks(axis, FLOPS_TICKS)
    axis.set_xlabel("training FLOPs / those of the dense network")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(f"training length, {100 * sparsity:g} % uniform")
    legend(axis)


def _over_sparsity(axis: Axes, rows: pd.DataFrame) -> None:
    right = published_axis(axis)
    shown = []
    extended = float(protocol_of(rows, BENCHMARK).extended)
    for method, distribution, length, dashes in OVER_SPARSITY:
        multiplier, published_multiplier = (extended, PUBLISHED_EXTENDED) if length == EXTENDED else (length, length)
        of = pick(rows, method=method)
        of = of[
            of["multiplier"].eq(published_multiplier).where(of["scale"].eq(PUBLISHED), of["multiplier"].eq(multiplier))
        ]
        of = of[of["distribution"].eq(distribution) | (of["method"].eq("Small-Dense"))]
        of = of[~of["source"].eq("ICLR Fig. 2 left, digitised")] if "source" in of else of
        shown.append(of)
        label = f"{method} {multiplier:g}x" + (" ERK" if distribution == "ERK" else "")
        curve(axis, of, "sparsity", "accuracy", label, dashes=dashes, **look_of(method))
        hollow(right, of, "sparsity", dashes=dashes, **look_of(method))
    dense_line(axis, rows, "accuracy")
    sparsity_ticks(axis, pd.concat(shown))
    axis.set_ylabel("accuracy (%)")
    axis.set_title("sparsity")
    legend(axis)


def _main_sparsity(rows: pd.DataFrame) -> float:
    """That with the most training lengths."""
    lengths = pick(rows, method=["Static", "SET", "SNFS", "Pruning"]).groupby("sparsity")["multiplier"].nunique()
    return float(lengths.idxmax()) if len(lengths) else PUBLISHED_SPARSITY
