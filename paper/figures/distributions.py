"""Accuracy of a method over sparsity for each distribution: panels of figures 5 and 7."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from paper.figures.data import pick, usual_updates
from paper.figures.style import DISTRIBUTION_COLOURS, DISTRIBUTION_DASHES, METHOD_MARKERS, curve, hollow, sparsity_ticks

BENCHMARK = "imagenet_resnet50"
DIGITISED = "ICLR Fig. 2 left, digitised"


def by_distribution(axis: Axes, results: pd.DataFrame, method: str, right: Axes | None) -> None:
    """One curve a distribution; published values go to the right axis."""
    rows = usual_updates(pick(results, benchmark=BENCHMARK, method=method, multiplier=1.0))
    rows = rows[rows["source"] != DIGITISED]  # beside it the table's, with a spread
    for distribution, colour in DISTRIBUTION_COLOURS.items():
        of = pick(rows, distribution=distribution)
        look = {"color": colour, "marker": METHOD_MARKERS[method]}
        curve(axis, of, "sparsity", "accuracy", distribution, dashes=DISTRIBUTION_DASHES[distribution], **look)
        if right is not None:
            hollow(right, of, "sparsity", **look)
    sparsity_ticks(axis, rows)
    axis.set_title(method)
