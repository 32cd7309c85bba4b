"""Figure 3: MobileNet-v1 and v2 over sparsity, all five times as long; MobileNet-v1 over the FLOPs of inference.

What to see: RigL is above pruning, and pruning above Small-Dense. Big-Sparse, a wider network at 75 %, is above the
dense one of equal FLOPs. Measured values are in the upper row, published ones in the lower.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import Run
from paper.figures.axes import flops_axis, sparsity_axis
from paper.figures.curves import Curve, dense_line, draw_published, frame_above, published_dense_line
from paper.figures.curves import draw as draw_curves
from paper.figures.data import pick, scale_of
from paper.figures.style import method_style, new_figure
from paper.figures.words import BETTER, caption, legend_below, protocols_caption, title, verdict_of
from paper.protocols import PROTOCOLS

V1, V2 = panels.MOBILENETS
# method, distribution, label, dashes
OVER_SPARSITY = (
    ("RigL", "ERK", "RigL ERK", (1, 0)),
    ("RigL", "uniform", "RigL uniform", (4, 2)),
    ("Pruning", "uniform", "Pruning", (1, 0)),
    ("Small-Dense", "uniform", "Small-Dense", (1, 0)),
)
OVER_FLOPS = (
    *OVER_SPARSITY[:2],
    ("Big-Sparse", "ERK", "Big-Sparse ERK", (1, 0)),
    ("Big-Sparse", "uniform", "Big-Sparse uniform", (4, 2)),
    ("Dense", "", "Dense", (1, 0)),
)
Choice = tuple[str, str, str, tuple[float, ...]]


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Three columns: v1 and v2 over sparsity, v1 over inference FLOPs; two rows: ours and published."""
    scale = scale_of(results)
    runs = panels.figure_3(scale, 0)
    figure = new_figure(3, 5.2, n_rows=2, sharex="col")
    *ours, v1, v2, flops = figure.axes
    for axis, benchmark in zip(ours, (V1, V2), strict=False):
        curves = _curves(OVER_SPARSITY, runs, benchmark)
        draw_curves(axis, results, curves, "sparsity", "accuracy")
        dense_line(axis, results, next(r for r in runs if (r.benchmark, r.method) == (benchmark, "Dense")), "accuracy")
        frame_above(axis, results, curves, note="left")
    first = _curves(OVER_SPARSITY, runs, V1)
    over_flops = _curves(OVER_FLOPS, runs, V1)
    draw_published(v1, pick(results, benchmark=V1), first, "sparsity")
    published_dense_line(v1, results, V1)
    draw_curves(ours[2], results, over_flops, "inference", "accuracy")
    draw_published(flops, pick(results, benchmark=V1), over_flops, "inference")
    _label((*ours, v1, flops), scale)
    v2.set_axis_off()
    v2.text(0.5, 0.5, "MobileNet-v2:\nno numbers are published", ha="center", va="center", transform=v2.transAxes)
    left = verdict_of(judged, "3 left", scale, 36)
    title(ours[0], "Measured: MobileNet-v1,\nsmall-scale model", left)
    title(ours[1], "Measured: MobileNet-v2,\nsmall-scale model")
    title(ours[2], "Measured: MobileNet-v1, wider networks", verdict_of(judged, "3 right", scale, 36))
    title(v1, "Published: MobileNet-v1, ImageNet")
    title(flops, "Published: MobileNet-v1, ImageNet")
    legend_below(v1, (ours[0], v1), n_columns=2)
    legend_below(flops, (ours[2], flops), n_columns=2)
    caption(figure, f"{protocols_caption(results, runs)} {_OF_PUBLISHED}")
    return figure


_OF_PUBLISHED = "Published: bars are standard deviations; pruning is that of Zhu & Gupta, not trained as long."


def _curves(choices: tuple[Choice, ...], runs: list[Run], benchmark: str) -> list[Curve]:
    curves = []
    for method, distribution, label, dashes in choices:
        key = benchmark, method, distribution
        of = [run for run in runs if (run.benchmark, run.method, run.distribution) == key]
        published: dict[str, object] = {"method": method}
        if method not in ("Small-Dense", "Dense"):
            published["distribution"] = distribution
        style = {**method_style(method), "dashes": dashes}
        curves.append(Curve(label, of, style | ({"marker": "s"} if method == "Dense" else {}), published))
    return curves


def _label(axes: tuple[Axes, ...], scale: str) -> None:
    for axis in axes:
        if axis in (axes[2], axes[4]):
            flops_axis(axis, "inference")
        else:
            sparsity_axis(axis, PROTOCOLS[scale][V1].sparsities)
    for axis in (axes[0], axes[3]):
        axis.set_ylabel(BETTER["accuracy"])
