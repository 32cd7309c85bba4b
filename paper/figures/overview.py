"""Error against training FLOPs of every method on LeNet-300-100: the README's picture.

What to see: methods that never hold a dense network are at the left; among them those that move connections have a
lower error than static masks; methods with a still lower error need dense FLOPs. The line joins the methods to which no
other one is superior at the same cost or less.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from paper.figures.axes import flops_axis
from paper.figures.style import GREY, METHOD_COLOURS, METHOD_MARKERS, set_fonts
from paper.tables.methods import frontier

TICKS = (1.5, 2, 3, 5, 10, 20, 50, 80)
"""Percent."""
EMPHASISED = ("Dense", "Static", "RigL")
DISTANCES = (5, 9, 14, 20, 27, 35, 45, 57, 70, 90, 115, 145)  # points between a point and its name
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), *((x, y) for y in (-0.3, -0.6, 0.3, 0.6) for x in (0.8, -0.8)))


def draw(accuracies: pd.DataFrame, what: str) -> Figure:
    """Mean and standard deviation over the seeds of the rows of `paper.tables.methods.rows`.

    Args:
        accuracies: One row a method.
        what: Network, data and length of the training.
    """
    set_fonts()
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axis = figure.subplots()
    best = frontier(accuracies)
    axis.step(best["training"], 100 - best["accuracy"], where="post", color=GREY, linewidth=0.7, alpha=0.6)
    for row in accuracies.itertuples():
        colour, marker = METHOD_COLOURS.get(row.method, GREY), METHOD_MARKERS.get(row.method, ".")
        spread = 0.0 if row.accuracy_std != row.accuracy_std else row.accuracy_std
        axis.errorbar(
            row.training, 100 - row.accuracy, yerr=spread, fmt=marker, color=colour, markersize=5, elinewidth=0.8
        )
    flops_axis(axis)
    axis.margins(0.08)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(FixedLocator(TICKS))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_ylabel("test error (%), lower is better")
    axis.spines[["top", "right"]].set_visible(False)
    sparsity, n = accuracies["sparsity"].max(), accuracies["n"]
    seeds = f"n = {n.min()}" if n.min() == n.max() else f"n = {n.min()} to {n.max()}"
    axis.set_title(f"{what}, {100 * sparsity:g} % sparse; {seeds}, ± 1 standard deviation", loc="left")
    figure.draw_without_rendering()
    _name_points(axis, accuracies)
    return figure


def _name_points(axis: Axes, rows: pd.DataFrame) -> None:
    """Each name at the nearest place where it covers no point and no other name."""
    points = axis.transData.transform(list(zip(rows["training"], 100 - rows["accuracy"], strict=True)))
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    frame = axis.get_window_extent()
    # From above to below, so that names of points in a column stand in the order of the points.
    order = sorted(range(len(rows)), key=lambda i: (rows["method"].iloc[i] not in EMPHASISED, rows["accuracy"].iloc[i]))
    for i in order:
        row = rows.iloc[i]
        for place in _places():
            name = _name(axis, row["method"], (row["training"], 100 - row["accuracy"]), place)
            name.get_window_extent()  # which places it
            box = Text.get_window_extent(name)  # without the line, which begins at the point
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box.expanded(1.02, 1.05))
                break
            name.remove()


def _places() -> Iterator[tuple[float, float]]:
    yield from ((distance * dx, distance * dy) for distance, (dx, dy) in product(DISTANCES, DIRECTIONS))


def _name(axis: Axes, text: str, point: tuple[float, float], place: tuple[float, float]) -> Annotation:
    x, y = place
    far = max(abs(x), abs(y)) > DISTANCES[1]
    return axis.annotate(
        text,
        point,
        place,
        textcoords="offset points",
        fontsize=7,
        color=METHOD_COLOURS.get(text, GREY),
        weight="bold" if text in EMPHASISED else "normal",
        ha="left" if x > 0 else "right" if x < 0 else "center",
        va="bottom" if y > 0 else "top" if y < 0 else "center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85},
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkB": 3} if far else None,
    )
