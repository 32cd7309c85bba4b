"""Figure 3: MobileNet-v1 and v2 over sparsity, all five times as long; MobileNet-v1 over the FLOPs of inference.

What to see: RigL above pruning above Small-Dense; Big-Sparse, a wider network at 75 %, above the dense one of equal
FLOPs.
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
    hollow,
    legend,
    look_of,
    new_figure,
    published_axis,
    seeds_caption,
    sparsity_ticks,
)

NETWORKS = {"imagenet_mobilenet_v1": "MobileNet-v1", "imagenet_mobilenet_v2": "MobileNet-v2"}
# method, distribution, label, dashes
CURVES = (
    ("RigL", "ERK", "RigL ERK", (1, 0)),
    ("RigL", "uniform", "RigL uniform", (4, 2)),
    ("Pruning", "uniform", "Pruning", (1, 0)),
    ("Small-Dense", "", "Small-Dense", (1, 0)),
)


def draw(results: pd.DataFrame) -> Figure:
    """Three panels: v1 and v2 over sparsity, v1 over inference FLOPs."""
    figure = new_figure(3, 3.1, share=False)
    *over_sparsity, last = figure.axes
    for axis, (benchmark, name) in zip(over_sparsity, NETWORKS.items(), strict=True):
        _over_sparsity(axis, pick(results, benchmark=benchmark), name)
    first = pick(results, benchmark=next(iter(NETWORKS)))
    _over_flops(last, first)
    shown = own(pick(results, benchmark=list(NETWORKS)))
    caption(
        figure,
        seeds_caption(list(NETWORKS), shown)
        + "\nHollow: MobileNet-v1 on ImageNet as published, right axes (pruning: of Zhu & Gupta, shorter).",
    )
    return figure


def _over_sparsity(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    right = published_axis(axis, "") if len(rows[rows["scale"] == "published"]) else None
    for method, distribution, label, dashes in CURVES:
        of = pick(rows, method=method)
        of = of[of["distribution"].isin([distribution, "uniform"] if method == "Small-Dense" else [distribution])]
        curve(axis, of, "sparsity", "accuracy", label, dashes=dashes, **look_of(method))
        if right is not None:
            hollow(right, of, "sparsity", dashes=dashes, **look_of(method))
    dense_line(axis, rows, "accuracy")
    sparsity_ticks(axis, rows)
    axis.set_ylabel("accuracy (%)")
    axis.set_title(name)
    legend(axis, n_columns=2)


def _over_flops(axis: Axes, rows: pd.DataFrame) -> None:
    right = published_axis(axis)
    for method, distribution, label, dashes in (
        *CURVES[:2],
        ("Big-Sparse", "uniform", "Big-Sparse", (4, 2)),
        ("Big-Sparse", "ERK", "Big-Sparse ERK", (1, 0)),
    ):
        of = pick(rows, method=method, distribution=distribution)
        curve(axis, of, "inference", "accuracy", label, by="sparsity", dashes=dashes, **look_of(method))
        hollow(right, of, "inference", **look_of(method))
    dense = pick(rows, method="Dense")
    curve(axis, dense, "inference", "accuracy", "Dense", **{**look_of("Dense"), "marker": "s"})
    hollow(right, dense, "inference", **{**look_of("Dense"), "marker": "s"})
    axis.axvline(1.0, color=METHOD_COLOURS["Dense"], linestyle="--", linewidth=0.6)
    axis.set_xlabel("inference FLOPs / dense")
    axis.set_title("MobileNet-v1")
    legend(axis, n_columns=2)
