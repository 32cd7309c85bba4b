"""Which rows count: those of runs that are declared, recognised by their identity."""

from __future__ import annotations

from functools import cache

from paper.claims import claims, runs
from paper.experiments import CLAIM_SEEDS
from paper.panels import all_runs


@cache
def points(scale: str) -> dict[str, str]:
    """Name of the point (`Run.point`) by identity, of every run of a figure, a table or a claim."""
    declared = [*all_runs(scale, CLAIM_SEEDS), *runs(claims(scale))]
    return {run.identity: run.point for run in declared}
