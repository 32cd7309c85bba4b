"""Every comparison of every claim as effect and interval, coloured by verdict and grouped by figure.

What to see: effects to the right of the line support the claim, effects to the left contradict it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper.figures.style import FULL_WIDTH, GREY, VERDICT_COLOURS, set_fonts
from paper.figures.words import caption
from paper.tables.claims import ORDINALS, counts, verdicts

LINE_HEIGHT = 0.118  # inches
NAMES = 5.4  # points
LINEAR = 2.0
"""Standard deviations up to which the abscissa is linear."""
TICKS = (-100, -10, -2, 0, 2, 10, 100)
LIMIT = 250.0
SHORTENED = {
    ", mean of all sparsities": "",
    ", mean of sparsities up to": " up to",
    "RigL, live": "live",
    "RigL, normalised": "normalised",
    "LeNet-300-100": "LeNet",
}
NAMED_PANELS = {
    "MNIST": "table of methods, LeNet-300-100",
    "lottery": "table of lottery tickets",
    "narrow": "our question: narrow networks",
}


Panels = list[tuple[tuple[str, str], pd.DataFrame]]
"""Scale and figure, and its comparisons."""


def draw(judged: pd.DataFrame) -> Figure:
    """Two columns of lines, a heading for every panel.

    Args:
        judged: Rows of `paper.tables.claims.rows`.
    """
    set_fonts()
    columns = _halves(judged)
    n_lines = max(_n_lines(column) for column in columns)
    figure = plt.figure(figsize=(FULL_WIDTH, n_lines * LINE_HEIGHT + 1.2), layout="constrained")
    for axis, column in zip(figure.subplots(1, 2), columns, strict=True):
        _column(axis, column, n_lines)
    figure.suptitle(f"{len(verdicts(judged))} claims: {counts(verdicts(judged))}", fontsize=9)
    shown = [verdict for verdict in VERDICT_COLOURS if (judged["verdict"] == verdict).any()]
    marks = [Line2D([], [], color=VERDICT_COLOURS[v], marker="o", linewidth=1, markersize=3, label=v) for v in shown]
    figure.axes[0].legend(
        handles=marks, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(shown), frameon=False, fontsize=6
    )
    claims = judged["claim"]
    level = " Where a claim is that two are level, an effect near the line supports it."
    later = " Where a later test was made, on new seeds alone, it is shown."
    caption(
        figure,
        "Effect in the direction of the claim, in standard deviations of the differences over seeds, with its own 95 % "
        "interval; the verdicts are corrected for the comparisons of a figure (Holm)."
        + (level if claims.str.contains("within one point").any() else "")
        + (later if (judged["test"] != ORDINALS[0]).any() else "")
        + " A triangle: no spread, a cost. "
        "Effects in their units: table_claims.csv.",
    )
    return figure


def _panels(judged: pd.DataFrame) -> Panels:
    groups = judged.groupby(["scale", "figure"], sort=False)
    return [((str(scale), str(figure)), group) for (scale, figure), group in groups]


def _halves(judged: pd.DataFrame) -> tuple[Panels, Panels]:
    """Panels of the left and of the right column, of about as many lines."""
    panels = _panels(judged)
    left: Panels = []
    while panels and 2 * _n_lines([*left, panels[0]]) <= _n_lines(_panels(judged)) + len(panels[0][1]) + 1:
        left.append(panels.pop(0))
    return left, panels


def _n_lines(panels: Panels) -> int:
    return sum(len(group) + 1 for _, group in panels)


def _column(axis: Axes, panels: Panels, n_lines: int) -> None:
    axis.set_xscale("symlog", linthresh=LINEAR)
    axis.axvline(0, color=GREY, linewidth=0.6)
    names, line = [], 0
    for (scale, figure), group in panels:
        heading = NAMED_PANELS.get(figure, figure if figure[0].isalpha() else f"figure {figure}")
        names.append((line, heading + (", at the paper's length" if scale == "paper" else ""), "bold"))
        for _, row in group.iterrows():
            line += 1
            names.append((line, short(row["comparison"]), "normal"))
            _comparison(axis, line, row)
        line += 1
    axis.set_ylim(n_lines - 0.4, -0.6)
    axis.set_xlim(-LIMIT, LIMIT)
    axis.set_yticks([y for y, _, _ in names], [text for _, text, _ in names], fontsize=NAMES)
    for label, (_, _, weight) in zip(axis.get_yticklabels(), names, strict=True):
        label.set_fontweight(weight)
    axis.tick_params(axis="y", length=0)
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=6)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_xlabel("against  ←  effect / s.d.  →  for", fontsize=6)


def short(name: str) -> str:
    """A comparison's name without what its heading says already.

    >>> short("MobileNet-v1, mean of all sparsities: RigL over Pruning")
    'MobileNet-v1: RigL over Pruning'
    """
    for long, brief in SHORTENED.items():
        name = name.replace(long, brief)
    return name


def _comparison(axis: Axes, line: int, row: pd.Series) -> None:
    colour = VERDICT_COLOURS[row["verdict"]]
    if pd.isna(row["effect"]):
        text = axis.text(0, line, "  no runs yet", fontsize=NAMES, va="center", color=GREY)
        text.set_in_layout(False)
    elif not abs(row["effect"]) < LIMIT * row["spread"]:  # one run, or a cost that no seed changes
        side = 1 if row["effect"] > 0 else -1
        axis.plot(side * LIMIT / 1.3, line, marker=">" if side > 0 else "<", color=colour, markersize=3.5)
    else:
        half = 0.0 if pd.isna(row["interval"]) else row["interval"] / row["spread"]
        effect = row["effect"] / row["spread"]
        axis.errorbar(effect, line, xerr=half, fmt="o", color=colour, markersize=2.6, elinewidth=0.9)
