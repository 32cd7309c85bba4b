"""Figure 9: RigL with other decays of the drop fraction: constant, inverse power (k = 3), linear.

What to see: constant falls behind as alpha grows; linear is close to the cosine of figure 5.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.style import caption, legend, new_figure, seeds_caption
from paper.figures.sweeps import over_intervals

DECAYS = ("constant", "inverse power", "linear")


def draw(results: pd.DataFrame) -> Figure:
    """Three panels, one a decay."""
    figure = new_figure(3, 2.6)
    shown = [over_intervals(axis, results, "RigL", decay) for axis, decay in zip(figure.axes, DECAYS, strict=True)]
    figure.axes[0].set_ylabel("accuracy (%)")
    legend(figure.axes[0])
    caption(
        figure,
        seeds_caption("A bottleneck ResNet, CIFAR-10 at 16 pixels", pd.concat(shown))
        + "\nΔT is a fifth of the paper's: 20 stands for 100. No numbers are published.",
    )
    return figure
