"""Figure 5: ResNet-50 with RigL. Left: distributions over sparsity. Right: the cosine sweep of Delta T and alpha.

What to see: ERK best, the more so the sparser; the best interval near the paper's 100 steps, with alpha .3 to .5.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.data import own, pick
from paper.figures.distributions import BENCHMARK, by_distribution
from paper.figures.style import caption, legend, new_figure, published_axis, seeds_caption
from paper.figures.sweeps import interval_caption, over_intervals


def draw(results: pd.DataFrame) -> Figure:
    """Two panels."""
    figure = new_figure(2, 2.8, share=False)
    left, right = figure.axes
    by_distribution(left, results, "RigL", published_axis(left))
    left.set_ylabel("accuracy (%)")
    legend(left)
    swept = over_intervals(right, results, "RigL", "cosine")
    right.set_ylabel("accuracy (%)")
    legend(right)
    shown = pd.concat([swept, own(pick(results, benchmark=BENCHMARK, method="RigL", multiplier=1.0, decay="cosine"))])
    text = f"{seeds_caption([BENCHMARK], shown)}\n{interval_caption(results)}"
    caption(figure, f"{text} Hollow: ResNet-50 on ImageNet as published, right axis.")
    return figure
