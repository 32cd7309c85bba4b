"""Accuracy over Delta T for each drop fraction: panels of figures 5, 8 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import Run, configured_updates, declared
from paper.figures.axes import log_ticks
from paper.figures.curves import Curve
from paper.figures.curves import draw as draw_curves
from paper.figures.data import scale_of
from paper.figures.style import alpha_style, new_figure
from paper.figures.words import BETTER, caption, legend_below, protocols_caption, title
from paper.protocols import PROTOCOLS

BESIDE = 1.4
"""Factor by which the abscissa goes on beside the first and the last interval, whichever of them have runs."""


def sweep_figure(results: pd.DataFrame, choices: Sequence[tuple[str, str]], verdict: str = "") -> Figure:
    """One column for each method and decay, one row for each benchmark.

    Args:
        results: All rows.
        choices: Methods and decays.
        verdict: Of the figure's claims, which are about the last benchmark.
    """
    scale = scale_of(results)
    benchmarks = panels.SWEPT[scale]
    figure = new_figure(len(choices), 1.0 + 2.1 * len(benchmarks), n_rows=len(benchmarks), sharey="row")
    shown: list[Run] = []
    for i, benchmark in enumerate(benchmarks):
        row = figure.axes[i * len(choices) : (i + 1) * len(choices)]
        for axis, choice in zip(row, choices, strict=True):
            shown += over_intervals(axis, results, benchmark, *choice)
            title(axis, f"Measured: {choice[0]}, {choice[1]} decay\n{where(scale, benchmark)}")
        row[0].set_ylabel(BETTER["accuracy"])
        if benchmark == benchmarks[-1]:
            title(row[0], f"Measured: {choices[0][0]}, {choices[0][1]} decay\n{where(scale, benchmark)}", verdict)
    legend_below(figure.axes[-len(choices)], figure.axes, n_columns=3)
    caption(figure, f"{protocols_caption(results, shown)} {interval_caption(scale)} No numbers are published.")
    return figure


def where(scale: str, benchmark: str) -> str:
    """Network, sparsity and distribution of a panel with one of each."""
    protocol = PROTOCOLS[scale][benchmark]
    return f"{protocol.title.split(',')[0]}, {100 * protocol.sparsity:g} % sparse, {protocol.distribution}"


def interval_caption(scale: str, benchmarks: Sequence[str] = ()) -> str:
    """Which of the intervals takes the place of the paper's, where another one does."""
    usual = {b: configured_updates(PROTOCOLS[scale][b])[0] for b in benchmarks or panels.SWEPT[scale]}
    return " ".join(
        f"On {PROTOCOLS[scale][b].title.split(',')[0]} ΔT = {dt} stands for the paper's 100."
        for b, dt in usual.items()
        if dt != 100
    )


def over_intervals(axis: Axes, results: pd.DataFrame, benchmark: str, method: str, decay: str) -> list[Run]:
    """One curve an alpha; returns the runs shown."""
    scale = scale_of(results)
    protocol = PROTOCOLS[scale][benchmark]

    def of(alpha: float) -> list[Run]:
        plain = Run(benchmark, method, protocol.sparsity, protocol.distribution, 0, scale, decay=decay)
        return [declared(replace(plain, delta_t=delta_t, alpha=alpha)) for delta_t in protocol.intervals]

    curves = [Curve(f"α = {alpha:g}", of(alpha), alpha_style(alpha)) for alpha in panels.DROP_FRACTIONS]
    draw_curves(axis, results, curves, "delta_t", "accuracy")
    log_ticks(axis, protocol.intervals, "ΔT (steps)")
    axis.set_xlim(min(protocol.intervals) / BESIDE, max(protocol.intervals) * BESIDE)
    return [run for curve in curves for run in curve.runs]
