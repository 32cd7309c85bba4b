"""Accuracy of a method over sparsity for each distribution: panels of figures 5 and 7."""

from __future__ import annotations

from collections.abc import Sequence

from paper.declared import is_swept
from paper.experiments import Run
from paper.figures.curves import Curve
from paper.figures.published_rows import TABLES
from paper.figures.style import DISTRIBUTION_COLOURS, METHOD_MARKERS, distribution_style


def by_distribution(runs: Sequence[Run], benchmark: str, method: str) -> list[Curve]:
    """One curve a distribution, of a figure's runs that are no part of a sweep."""
    return [
        Curve(
            distribution,
            [run for run in runs if not is_swept(run) and (run.benchmark, run.method, run.distribution) == key],
            {**distribution_style(distribution), "marker": METHOD_MARKERS[method]},
            {"method": method, "distribution": distribution, "multiplier": 1.0, "source": TABLES},
        )
        for distribution in DISTRIBUTION_COLOURS
        for key in [(benchmark, method, distribution)]
    ]
