"""Figure 8: the cosine sweep of Delta T and alpha for SET and SNFS, as figure 5 for RigL.

What to see: which intervals and fractions suit the other two methods; large fractions go with long intervals.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.style import caption, legend, new_figure, seeds_caption
from paper.figures.sweeps import over_intervals


def draw(results: pd.DataFrame) -> Figure:
    """Two panels: SET and SNFS."""
    figure = new_figure(2, 2.6)
    shown = [
        over_intervals(axis, results, method, "cosine")
        for axis, method in zip(figure.axes, ("SET", "SNFS"), strict=True)
    ]
    figure.axes[0].set_ylabel("accuracy (%)")
    legend(figure.axes[0])
    caption(
        figure,
        seeds_caption("A bottleneck ResNet, CIFAR-10 at 16 pixels", pd.concat(shown))
        + "\nΔT is a fifth of the paper's: 20 stands for 100. No numbers are published.",
    )
    return figure
