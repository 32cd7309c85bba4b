"""Figure 1: sparse training as a loop, drawn from a real mask update of one small layer.

What to see: the first masks are random. Then three steps repeat: training with fixed masks, dropping the connections of
smallest magnitude (dashed), growing as many with the largest gradient. The number of connections stays the same.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from paper.figures.style import new_figure
from paper.figures.words import caption

RESULTS = ("drop_and_grow.csv",)
KEPT, DROPPED, GROWN = "#4d4d4d", "#b2182b", "#1b9e77"
TITLES = ("1  random masks", "2  train for ΔT steps", "3  drop smallest weights", "4  grow largest gradients")
NODE = 16.0


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Four panels of one layer as a bipartite graph: at first, before the update, dropped, grown; and the way back."""
    figure = new_figure(4, 3.0)
    initial, before, dropped, grown = (results[results[c] == 1] for c in ("initial", "before", "dropped", "grown"))
    kept = results[(results["before"] == 1) & (results["after"] == 1)]
    edges = [
        [(initial, KEPT, "-", 0.8)],
        [(before, KEPT, "-", 0.8)],
        [(kept, KEPT, "-", 0.5), (dropped, DROPPED, "--", 1.3)],
        [(kept, KEPT, "-", 0.5), (grown, GROWN, "-", 1.6)],
    ]
    numbers = [f"{len(initial)} active", f"{len(before)} active", f"{len(dropped)} dropped", f"{len(grown)} grown"]
    for axis, drawn, title, number in zip(figure.axes, edges, TITLES, numbers, strict=True):
        for connections, colour, dashes, width in drawn:
            _edges(axis, connections, results, colour, dashes, width)
        _nodes(axis, results)
        axis.set_title(f"{title}\n{number}", loc="center")
        axis.set_xlim(-0.25, 1.25)
        axis.set_ylim(-0.22, 1.02)
    first, train, drop, grow = figure.axes
    for left, right in ((first, train), (train, drop), (drop, grow)):
        figure.add_artist(_arrow(left, (0.97, 0.58), right, (0.03, 0.58)))
    figure.add_artist(_arrow(grow, (0.5, 0.13), train, (0.5, 0.13), "bar,fraction=-0.06"))
    drop.text(0.5, -0.13, f"{int(results['after'].sum())} active again: the next ΔT steps", ha="center", va="bottom")
    step, layer = results["step"].iloc[0], results["layer"].iloc[0]
    sizes = f"{results['input'].nunique()} to {results['output'].nunique()} units"
    caption(
        figure,
        f"RigL's update at step {step} of a training on 8x8 digits, 80 % sparse; layer {layer} ({sizes}), all its "
        "connections. 1 is drawn once at the start; 2 to 4 are repeated until T_end. As many grow as are dropped.",
    )
    return figure


def _arrow(
    left: Axes, begin: tuple[float, float], right: Axes, end: tuple[float, float], form: str = "arc3"
) -> ConnectionPatch:
    places: dict[str, Any] = {"xyA": begin, "xyB": end, "coordsA": "axes fraction", "coordsB": "axes fraction"}
    return ConnectionPatch(
        axesA=left, axesB=right, arrowstyle="->", mutation_scale=10, connectionstyle=form, color=KEPT, **places
    )


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
