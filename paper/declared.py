"""Which rows count: those of runs that are declared, recognised by their identity."""

from __future__ import annotations

from functools import cache

from paper.claims import claims, runs, runs_again
from paper.experiments import CLAIM_SEEDS, Run
from paper.panels import all_runs


@cache
def by_identity(scale: str, again: bool = False) -> dict[str, Run]:
    """Every run of a figure, a table or a claim; with ``again`` also those of later tests, which no figure shows."""
    later = runs_again(claims(scale)) if again else []
    return {run.identity: run for run in [*all_runs(scale, CLAIM_SEEDS), *runs(claims(scale)), *later]}


def is_swept(run: Run) -> bool:
    """Whether it is part of a sweep: its mask updates are not those of the configuration."""
    return (run.delta_t, run.alpha, run.snfs_momentum, run.decay) != (None, None, None, "cosine")
