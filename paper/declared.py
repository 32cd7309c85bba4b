"""Which rows count: those of runs that are declared, recognised by their identity."""

from __future__ import annotations

from functools import cache

from paper.claims import claims, runs, runs_again
from paper.experiments import CLAIM_SEEDS, Run
from paper.panels import all_runs


@cache
def by_identity(scale: str) -> dict[str, Run]:
    """Every run of a figure, a table or a claim, those of later tests included."""
    of_claims = claims(scale)
    return {run.identity: run for run in [*all_runs(scale, CLAIM_SEEDS), *runs(of_claims), *runs_again(of_claims)]}


def is_swept(run: Run) -> bool:
    """Whether it is part of a sweep: its mask updates are not those of the configuration."""
    return (run.delta_t, run.alpha, run.snfs_momentum, run.decay) != (None, None, None, "cosine")
