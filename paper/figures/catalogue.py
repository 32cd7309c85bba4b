"""The eleven figures by number: which module draws each, and which of its runs have rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import pandas as pd

from paper import panels
from paper.experiments import SEEDS
from paper.figures import (
    fig1_drop_and_grow,
    fig2_resnet50,
    fig3_mobilenet,
    fig4_char_gru_and_wrn22,
    fig5_distributions_and_intervals,
    fig6_loss_landscape,
    fig7_distributions_and_momentum,
    fig8_sweeps_of_set_and_snfs,
    fig9_other_schedules,
    fig10_wrn22_loss,
    fig11_layer_sparsities,
)

STUDIES: Mapping[int, ModuleType] = {1: fig1_drop_and_grow, 6: fig6_loss_landscape, 11: fig11_layer_sparsities}
"""Drawn from the rows of studies, in the files ``RESULTS``."""
TRAININGS: Mapping[int, ModuleType] = {
    2: fig2_resnet50,
    3: fig3_mobilenet,
    4: fig4_char_gru_and_wrn22,
    5: fig5_distributions_and_intervals,
    7: fig7_distributions_and_momentum,
    8: fig8_sweeps_of_set_and_snfs,
    9: fig9_other_schedules,
    10: fig10_wrn22_loss,
}
"""Drawn from runs: those of ``panels.py``."""


def missing(number: int, runs: pd.DataFrame, scale: str) -> tuple[int, int, list[str]]:
    """Declared runs of a figure, those of them that have rows, and the names of points with no row at all."""
    known = set(runs["config_hash"].dropna()) if "config_hash" in runs else set()
    measured: dict[str, int] = {}
    declared = panels.runs_of([panels.FIGURES[number]], scale, SEEDS)
    for run in declared:
        measured[run.point] = measured.get(run.point, 0) + (run.identity in known)
    return len(declared), sum(measured.values()), [point for point, n in measured.items() if n == 0]
