"""Figure 2: ResNet-50. Left: accuracy over training FLOPs. Right: accuracy over sparsity.

What to see: at equal FLOPs RigL is above SET, Small-Dense and Static; RigL gains with longer training; extended RigL
reaches pruning at every sparsity. Measured values are in the upper row, published ones in the lower.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import Run
from paper.figures.axes import flops_axis, sparsity_axis
from paper.figures.curves import Curve, dense_line, draw_published, frame_above, published_dense_line
from paper.figures.curves import draw as draw_curves
from paper.figures.data import pick, scale_of
from paper.figures.published_rows import DIGITISED, TABLES
from paper.figures.style import method_style, new_figure
from paper.figures.words import BETTER, caption, legend_below, protocols_caption, title, verdict_of
from paper.protocols import PROTOCOLS, Protocol

BENCHMARK = panels.RESNET
METHODS = ("Pruning", "RigL", "SET", "SNFS", "SNIP", "Small-Dense", "Static")
PUBLISHED_SPARSITY = 0.8
PUBLISHED_EXTENDED = 5.0
EXTENDED = 0.0
"""Stands for the length of the extended trainings, which is the protocol's for ours."""
# method, distribution (that of the panel: ""), length, dashes
OVER_SPARSITY = (
    ("RigL", "uniform", 1.0, (1, 1.5)),
    ("RigL", "uniform", EXTENDED, (4, 2)),
    ("RigL", "ERK", 1.0, (5, 1, 1, 1)),
    ("RigL", "ERK", EXTENDED, (1, 0)),
    ("Small-Dense", "", EXTENDED, (1, 0)),
    ("Pruning", "", 1.0, (1, 1.5)),
    ("Pruning", "", 1.5, (1, 0)),
)
AT_EQUAL_FLOPS = {"marker": "*", "markersize": 6.5, "dashes": (1, 0)}
"""Of RigL where it is compared with pruning at another length than those of the other curves."""


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Two columns, over training FLOPs and over sparsity; two rows, ours and published."""
    scale = scale_of(results)
    protocol, runs = PROTOCOLS[scale][BENCHMARK], panels.figure_2(scale, 0)
    figure = new_figure(2, 5.6, n_rows=2, sharex="col")
    ours_left, ours_right, left, right = figure.axes
    over_flops, over_sparsity = _over_flops(protocol, runs), _over_sparsity(protocol, runs)
    for axis, curves, x in ((ours_left, over_flops, "training"), (ours_right, over_sparsity, "sparsity")):
        draw_curves(axis, results, curves, x, "accuracy")
        dense_line(axis, results, runs[0], "accuracy")
        axis.set_ylabel(BETTER["accuracy"])
    frame_above(ours_left, results, over_flops, "SNIP")
    for axis, curves, x in ((left, over_flops, "training"), (right, over_sparsity, "sparsity")):
        draw_published(axis, pick(results, benchmark=BENCHMARK), curves, x)
        published_dense_line(axis, results, BENCHMARK)
        axis.set_ylabel(BETTER["accuracy"])
    flops_axis(ours_left)
    flops_axis(left)
    for axis in (ours_right, right):
        sparsity_axis(axis, protocol.sparsities)
    where = f"{100 * protocol.sparsity:g} % sparse, {protocol.distribution}"
    title(ours_left, f"Measured, {where}", verdict_of(judged, "2 left", scale))
    title(ours_right, f"Measured, {protocol.distribution} where not named", verdict_of(judged, "2 right", scale))
    title(left, f"Published: ResNet-50, {100 * PUBLISHED_SPARSITY:g} % sparse, uniform")
    title(right, "Published: ResNet-50, uniform where not named")
    legend_below(left, (ours_left, left))
    legend_below(right, (ours_right, right), n_columns=3)
    caption(figure, f"{protocols_caption(results, runs)} {_equal_flops(protocol)}\n{_OF_PUBLISHED}")
    return figure


_OF_PUBLISHED = (
    "Published: left digitised from the figure, without spread; right from the paper's tables, bars are standard "
    "deviations."
)


def _equal_flops(protocol: Protocol) -> str:
    pairs = (f"{rigl:g}x and {pruning:g}x at {s:g}" for s, (pruning, rigl) in protocol.extended_pruning.items())
    return f"Compared at right: RigL (ERK) and pruning of about equal training FLOPs, {', '.join(pairs)}."


def _over_flops(protocol: Protocol, runs: list[Run]) -> list[Curve]:
    def of(method: str) -> list[Run]:
        key = method, protocol.sparsity, protocol.distribution
        return [run for run in runs if (run.method, run.sparsity, run.distribution) == key]

    published = {"sparsity": PUBLISHED_SPARSITY, "source": DIGITISED}
    return [Curve(m, of(m), method_style(m), {"method": m, **published}) for m in METHODS]


def _over_sparsity(protocol: Protocol, runs: list[Run]) -> list[Curve]:
    curves = []
    for method, distribution, length, dashes in OVER_SPARSITY:
        multiplier = length or protocol.extended
        key = method, distribution or protocol.distribution, multiplier
        of = [run for run in runs if (run.method, run.distribution, run.multiplier) == key]
        published = {"method": method, "multiplier": length or PUBLISHED_EXTENDED, "source": TABLES}
        if method != "Small-Dense":
            published["distribution"] = distribution or "uniform"
        label = f"{method} {multiplier:g}x" + (f" {distribution}" if distribution else "")
        curves.append(Curve(label, of, {**method_style(method), "dashes": dashes}, published))
    drawn = {1.0, protocol.extended}
    for length in sorted({rigl for _, rigl in protocol.extended_pruning.values()} - drawn):
        of = [run for run in runs if (run.method, run.distribution, run.multiplier) == ("RigL", "ERK", length)]
        curves.append(Curve(f"RigL {length:g}x ERK", of, {**method_style("RigL"), **AT_EQUAL_FLOPS}))
    return curves
