"""What figures say in words: titles with verdicts, legends, and captions out of the runs' own protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from paper.experiments import Run
from paper.figures.data import MIN_SEEDS, of_runs, own, scale_of
from paper.figures.style import FULL_WIDTH, GREY, SMALL
from paper.protocols import PROTOCOLS
from paper.tables.claims import VERDICTS, verdicts
from paper.verdicts import HOLDS

CAPTION_WIDTH = 135  # characters
BETTER = {
    "accuracy": "accuracy (%), higher is better",
    "val_bits": "bits per character, lower is better",
    "final_train_loss": "final training loss (nats), lower is better",
}
"""Labels of ordinates."""


def nothing(text: str) -> Figure:
    """In place of a picture that has no rows."""
    figure = Figure(figsize=(FULL_WIDTH, 1.0))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def title(axis: Axes, text: str, verdict: str = "") -> None:
    """What a panel shows, and how its claims came out."""
    axis.set_title("\n".join(line for line in (text, verdict) if line), loc="left")


def verdict_of(judged: pd.DataFrame, figure: str, scale: str, width: int = 52) -> str:
    """How the claims of a panel came out: in one sentence if there is one claim, else how many have which verdict.

    Args:
        judged: Rows of `paper.tables.claims.rows`.
        figure: Number and panel.
        scale: Of the runs.
        width: Characters of a line.
    """
    found = verdicts(judged[(judged["figure"] == figure) & (judged["scale"] == scale)])
    if not len(found):
        return ""
    if len(found) == 1:
        sentence = str(found.index[0][-1]).rstrip(".")
        return "\n".join(wrap(f"{sentence}: {found.iloc[0].upper()}", width))
    parts = [f"{n} {verdict}" for verdict in VERDICTS if (n := int((found == verdict).sum())) and verdict != HOLDS]
    n_holds = int((found == HOLDS).sum())
    return "\n".join(wrap(", ".join([f"{n_holds} of {len(found)} claims HOLD", *parts]), width))


def caption(figure: Figure, text: str) -> None:
    """Scale, n and interval, below the panels."""
    lines = [line for paragraph in text.split("\n") for line in wrap(paragraph, CAPTION_WIDTH)]
    figure.supxlabel("\n".join(lines), fontsize=SMALL, color=GREY)


def protocols_caption(rows: pd.DataFrame, runs: Iterable[Run]) -> str:
    """What was trained, at which scale, and how many seeds the points have.

    Args:
        rows: All.
        runs: Of the figure.
    """
    runs = list(runs)
    shown = of_runs(own(rows), runs)
    what = ". ".join(PROTOCOLS[scale_of(rows)][b].title for b in dict.fromkeys(run.benchmark for run in runs))
    if not len(shown):
        return f"{what}: no runs yet."
    n = shown.groupby("point")["seed"].nunique()
    seeds = f"n = {n.min()}" if n.min() == n.max() else f"n = {n.min()} to {n.max()} seeds a point"
    where = "" if n.min() >= MIN_SEEDS else f"; hollow: n below {MIN_SEEDS}"
    return f"Measured: {what} ({scale_of(rows)} scale). Means, {seeds}; bars: 95 % intervals{where}."


def handles(*axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels of the curves of some panels, each once and without the bars of its intervals."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle[0] if isinstance(handle, ErrorbarContainer) else handle)
    return list(found.values()), list(found)


def legend_in(axis: Axes, of: Sequence[Axes], name: str = "", n_columns: int = 1) -> None:
    """The legend of some panels in a panel of its own."""
    axis.set_axis_off()
    found, labels = handles(*of)
    if found:
        axis.legend(
            found, labels, title=name or None, loc="center", ncols=n_columns, frameon=False, fontsize=SMALL,
            title_fontsize=SMALL, handlelength=2.6,
        )  # fmt: skip


def legend_below(axis: Axes, of: Sequence[Axes], n_columns: int = 4, name: str = "", drop: float = -0.2) -> None:
    """The legend of some panels under one of them, where no curve runs."""
    found, labels = handles(*of)
    if found:
        axis.legend(
            found, labels, title=name or None, loc="upper center", bbox_to_anchor=(0.5, drop), ncols=n_columns,
            frameon=False, fontsize=SMALL, title_fontsize=SMALL, handlelength=2.6, labelspacing=0.25, columnspacing=1.2,
        )  # fmt: skip
