"""Figure 11: sparsity of every layer of ResNet-50 under ERK, with uniform and ER for comparison.

What to see: ERK leaves small layers and 1x1 convolutions denser than large 3x3 ones, and the first stages dense at
low sparsity. Exact; no training.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.style import DISTRIBUTION_COLOURS, DISTRIBUTION_DASHES, new_figure
from paper.figures.words import caption, legend_below, title

RESULTS = ("layer_sparsities.csv",)
MARKERS = {"uniform": "|", "ER": ".", "ERK": "o"}
NAMES = 4.8  # points


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """One panel a total sparsity; y: layers in the order of the network; x: sparsity."""
    totals = sorted(results["total_sparsity"].unique())
    figure = new_figure(len(totals), 6.6, sharey=True)
    for axis, total in zip(figure.axes, totals, strict=True):
        of_total = results[results["total_sparsity"] == total]
        for label, colour in DISTRIBUTION_COLOURS.items():
            layers = of_total[of_total["distribution"] == label].sort_values("position")
            (line,) = axis.plot(
                layers["sparsity"], layers["position"], label=label, color=colour, linewidth=0.8,
                marker=MARKERS[label], markersize=2.5,
            )  # fmt: skip
            line.set_dashes(DISTRIBUTION_DASHES[label])
        title(axis, f"total sparsity {total:g}")
        axis.set_xlim(-0.03, 1.03)
        axis.set_xlabel("sparsity of the layer")
        axis.grid(axis="y", linewidth=0.2)
    first = figure.axes[0]
    layers = results.drop_duplicates("position").sort_values("position")
    first.set_yticks(layers["position"], layers["layer"], fontsize=NAMES)
    first.set_ylim(layers["position"].max() + 0.7, -0.7)
    legend_below(figure.axes[1], figure.axes[:1], n_columns=3, drop=-0.06)
    exact = "computed from the shapes alone, so exact. Uniform keeps the first layer dense."
    caption(figure, f"ResNet-50, {len(layers)} weight tensors, the first at the top; {exact}")
    return figure
