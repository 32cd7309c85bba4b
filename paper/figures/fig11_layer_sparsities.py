"""Figure 11: sparsity of every layer of ResNet-50 under ERK, with uniform and ER for comparison.

What to see: ERK leaves small layers and 1x1 convolutions denser than large 3x3 ones, and the first stages dense at
low sparsity. Exact; no training.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.style import DISTRIBUTION_COLOURS, DISTRIBUTION_DASHES, caption, new_figure

RESULTS = ("layer_sparsities.csv",)


def draw(results: pd.DataFrame) -> Figure:
    """One panel a total sparsity; x: layers in the order of the network; y: sparsity."""
    totals = sorted(results["total_sparsity"].unique())
    figure = new_figure(n_columns=2, n_rows=2, height=4.2)
    for axis, total in zip(figure.axes, totals, strict=True):
        of_total = results[results["total_sparsity"] == total]
        for label, colour in DISTRIBUTION_COLOURS.items():
            layers = of_total[of_total["distribution"] == label].sort_values("position")
            (line,) = axis.plot(layers["position"], layers["sparsity"], label=label, color=colour, linewidth=1.0)
            line.set_dashes(DISTRIBUTION_DASHES[label])
        axis.set_title(f"total sparsity {total:g}")
        axis.set_ylim(-0.02, 1.02)
    for axis in figure.axes[::2]:
        axis.set_ylabel("sparsity of the layer")
    for axis in figure.axes[2:]:
        axis.set_xlabel("layer, from the first convolution to the classifier")
    figure.axes[0].legend(frameon=False, loc="lower right")
    caption(
        figure, "ResNet-50, 54 weight tensors; computed from the shapes alone, so exact. Uniform keeps layer 0 dense."
    )
    return figure
