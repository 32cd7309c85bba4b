"""Figure 1: sparse training as a loop, drawn from a real mask update of one small layer.

What to see: random masks at first; then, again and again, training with fixed masks, dropping the connections of
smallest magnitude (dashed), growing as many of largest gradient, and training on. The number of connections stays.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from paper.figures.style import caption, new_figure

RESULTS = ("drop_and_grow.csv",)
KEPT, DROPPED, GROWN = "#4d4d4d", "#b2182b", "#1b9e77"
PANELS = ("sparse training step", "drop: smallest weights", "grow: largest gradients", "sparse training step")
NODE = 16.0


def draw(results: pd.DataFrame) -> Figure:
    """Four panels of one layer as a bipartite graph: before the update, dropped, grown, after."""
    figure = new_figure(4, 2.5)
    before, dropped, grown, after = (results[results[c] == 1] for c in ("before", "dropped", "grown", "after"))
    kept = results[(results["before"] == 1) & (results["after"] == 1)]
    edges = [
        [(before, KEPT, "-", 0.8)],
        [(kept, KEPT, "-", 0.5), (dropped, DROPPED, "--", 1.3)],
        [(kept, KEPT, "-", 0.5), (grown, GROWN, "-", 1.6)],
        [(after, KEPT, "-", 0.8)],
    ]
    numbers = [f"{len(before)} active", f"{len(dropped)} dropped", f"{len(grown)} grown", f"{len(after)} active"]
    for axis, drawn, title, number in zip(figure.axes, edges, PANELS, numbers, strict=True):
        for connections, colour, dashes, width in drawn:
            _edges(axis, connections, results, colour, dashes, width)
        _nodes(axis, results)
        axis.set_title(f"{title}\n{number}")
    for left, right in pairwise(figure.axes):
        figure.add_artist(_arrow(left, right))
    step, layer = results["step"].iloc[0], results["layer"].iloc[0]
    sizes = f"{results['input'].nunique()} to {results['output'].nunique()} units"
    caption(
        figure,
        f"RigL's update at step {step} of a training on 8x8 digits, 80 % sparse; layer {layer} ({sizes}), all its "
        "connections.\nAfter ΔT steps the loop goes on from the last panel to the first; the first masks are random.",
    )
    return figure


def _arrow(left: Axes, right: Axes) -> ConnectionPatch:
    places: dict[str, Any] = {
        "xyA": (0.985, 0.5),
        "xyB": (0.015, 0.5),
        "coordsA": "axes fraction",
        "coordsB": "axes fraction",
    }
    return ConnectionPatch(axesA=left, axesB=right, arrowstyle="->", color=KEPT, **places)


def _edges(axis: Axes, connections: pd.DataFrame, layer: pd.DataFrame, colour: str, dashes: str, width: float) -> None:
    inputs, outputs = _places(layer["input"].nunique()), _places(layer["output"].nunique())
    for source, target in zip(connections["input"], connections["output"], strict=True):
        axis.plot([0, 1], [inputs[source], outputs[target]], color=colour, linestyle=dashes, linewidth=width, zorder=1)


def _nodes(axis: Axes, layer: pd.DataFrame) -> None:
    for x, column in ((0, "input"), (1, "output")):
        places = _places(layer[column].nunique())
        axis.scatter([x] * len(places), places, s=NODE, facecolor="white", edgecolor="black", linewidth=0.7, zorder=2)
    axis.set_axis_off()


def _places(n: int) -> list[float]:
    return [(k + 0.5) / n for k in range(n)]
