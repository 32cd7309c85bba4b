"""The five curves of the WRN-22-2 panels, in figures 4 and 10."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from paper.figures.data import pick, usual_updates
from paper.figures.style import curve, dense_line, hollow, legend, look_of, published_axis, sparsity_ticks

BENCHMARK = "cifar10_wrn22"
# method, distribution, multiplier, label, dashes
CURVES = (
    ("RigL", "ERK", 1.0, "RigL", (1, 0)),
    ("RigL", "ERK", 2.0, "RigL 2x", (4, 2)),
    ("Static", "ERK", 1.0, "Static", (1, 0)),
    ("Static", "ERK", 2.0, "Static 2x", (4, 2)),
    ("Pruning", "uniform", 1.0, "Pruning", (1, 0)),
)


def over_sparsity(axis: Axes, results: pd.DataFrame, y: str) -> None:
    """The curves, and the dense network's line; published values of ``y`` are hollow."""
    rows = usual_updates(pick(results, benchmark=BENCHMARK))
    right = published_axis(axis) if y == "accuracy" else None
    for method, distribution, multiplier, label, dashes in CURVES:
        of = pick(rows, method=method, distribution=distribution, multiplier=multiplier)
        curve(axis, of, "sparsity", y, label, dashes=dashes, **look_of(method))
        if right is not None:
            hollow(right, of, "sparsity", dashes=dashes, **look_of(method))
    dense_line(axis, rows, y)
    sparsity_ticks(axis, rows)
    legend(axis)
