"""Claims on rows: differences of runs with the same seed, and how each comparison came out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pandas as pd
from scipy import stats

from paper.comparisons import TRENDS, Claim, Comparison
from paper.experiments import CLAIM_SEEDS, Run
from paper.verdicts import INCONCLUSIVE, Outcome, corrected, of_differences, of_later_test

UNITS = {
    "accuracy": "points",
    "val_bits": "bits",
    "final_train_loss": "nats",
    "training": "dense trainings",
}
"""Of the columns that are compared; a dense training is the FLOPs of the dense network's, once."""


@dataclass(frozen=True)
class Measured:
    """A comparison on rows.

    Attributes:
        claim: Which it is part of.
        name: What is compared.
        unit: Of the differences.
        differences: By seed, in the direction of the claim.
        within: See `Comparison`.
        level: See `Again`.
        test: 1 for the first test of a comparison, 2 for its second, and so on.
        flops: Mean training FLOPs of both sides, those of the dense network being 1; nan if not known.
        first: Name of the comparison in its first test.
    """

    claim: Claim
    name: str
    unit: str
    differences: pd.Series
    within: float | None = None
    level: float | None = None
    test: int = 1
    flops: tuple[float, float] = (math.nan, math.nan)
    first: str = ""

    @property
    def key(self) -> tuple[Claim, str, int]:
        """Claim, comparison and test."""
        return self.claim, self.first or self.name, self.test

    @property
    def next_key(self) -> tuple[Claim, str, int]:
        """Of the test that follows."""
        return self.claim, self.first or self.name, self.test + 1


@dataclass(frozen=True)
class Judged:
    """A comparison and its outcome."""

    measured: Measured
    outcome: Outcome


def measured(claims: Sequence[Claim], rows: pd.DataFrame, seeds: Sequence[int] = CLAIM_SEEDS) -> list[Measured]:
    """Every comparison of the claims.

    Args:
        claims: Of one scale.
        rows: As `paper.figures.data.read` gives them: ``config_hash``, ``training`` and the columns compared.
        seeds: That pairs may have; one for which a run of the comparison has no row is no pair.
    """
    own = _by_identity(rows)
    return [_measured(claim, comparison, own, seeds) for claim in claims for comparison in claim.comparisons]


def measured_again(claims: Sequence[Claim], rows: pd.DataFrame) -> list[Measured]:
    """The second and later tests of which all runs are there; arguments as of `measured`."""
    own = _by_identity(rows)
    found = [
        (again, replace(_measured(claim, compared, own, seeds), level=again.level, test=test, first=c.name))
        for claim in claims
        for c in claim.comparisons
        for test, (again, compared, seeds) in enumerate(c.later, start=2)
    ]
    return [m for again, m in found if len(m.differences) == again.n]


def _by_identity(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["config_hash"].notna()].drop_duplicates("config_hash").set_index("config_hash")


def _measured(claim: Claim, comparison: Comparison, own: pd.DataFrame, seeds: Sequence[int]) -> Measured:
    unit = UNITS[comparison.column] + (f" per {comparison.over}" if comparison.over else "")
    flops = _cost(comparison.better, own["training"], seeds), _cost(comparison.worse, own["training"], seeds)
    found = differences(comparison, own, seeds)
    return Measured(claim, comparison.name, unit, found, comparison.within, flops=flops)


def _cost(runs: Sequence[Run], training: pd.Series, seeds: Sequence[int]) -> float:
    """Mean training FLOPs, with those of the runs that lottery tickets come from."""
    if not runs:
        return math.nan
    needed = [run.needs for run in runs if run.needs is not None]
    of_needed = float(_of_seeds(needed, training, seeds, _mean).mean()) * len(needed) / len(runs) if needed else 0.0
    return float(_of_seeds(runs, training, seeds, _mean).mean()) + of_needed


def differences(comparison: Comparison, own: pd.DataFrame, seeds: Sequence[int] = CLAIM_SEEDS) -> pd.Series:
    """Differences by seed in the direction of the claim, of means or of slopes.

    Args:
        comparison: Whose runs.
        own: Rows by identity.
        seeds: That pairs may have.
    """

    def value(runs: Sequence[Run], values: Sequence[float]) -> float:
        return _slope([TRENDS[comparison.over](r) for r in runs], values) if comparison.over else _mean(runs, values)

    better, worse = (
        _of_seeds(runs, own[comparison.column], seeds, value) for runs in (comparison.better, comparison.worse)
    )
    difference = better - worse if comparison.worse else better
    return comparison.sign * difference.dropna()


def _of_seeds(
    runs: Sequence[Run],
    values: pd.Series,
    seeds: Sequence[int],
    value: Callable[[Sequence[Run], Sequence[float]], float],
) -> pd.Series:
    """A number for each seed of which all the runs have rows."""
    found = {}
    for seed in seeds:
        of_seed = values.reindex([replace(run, seed=seed).identity for run in runs])
        if len(of_seed) and of_seed.notna().all():
            found[seed] = value(runs, of_seed.tolist())
    return pd.Series(found, dtype=float)


def _mean(_: Sequence[Run], values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line of least squares."""
    return float(stats.linregress(x, y).slope)


def judged(comparisons: Iterable[Measured], again: Iterable[Measured] = ()) -> list[Judged]:
    """Outcomes with p-values corrected within a figure.

    Args:
        comparisons: With the first seeds.
        again: Second and later tests, each with its own seeds. A test counts where the one before is inconclusive.
    """
    found = _corrected([Judged(m, of_differences(m.differences, m.within)) for m in comparisons])
    for _, of_test in groupby(sorted(again, key=lambda m: m.test), key=lambda m: m.test):
        tested = [Judged(m, of_later_test(m.differences, m.test, m.within, m.level)) for m in of_test]
        of = {j.measured.key: j for j in _corrected(tested)}
        found = [_decided(j, of.get(j.measured.next_key)) for j in found]
    return found


def _decided(before: Judged, after: Judged | None) -> Judged:
    """By the test that follows, if there is one and the one before is inconclusive."""
    return after if after is not None and before.outcome.verdict == INCONCLUSIVE else before


def _corrected(found: Sequence[Judged]) -> list[Judged]:
    of_figure: dict[str, list[Judged]] = {}
    for j in found:
        of_figure.setdefault(figure_of(j.measured.claim), []).append(j)
    outcomes_of = corrected({figure: [j.outcome for j in of_one] for figure, of_one in of_figure.items()})
    return [
        replace(j, outcome=outcome)
        for figure, of_one in of_figure.items()
        for j, outcome in zip(of_one, outcomes_of[figure], strict=True)
    ]


def figure_of(claim: Claim) -> str:
    """Without the panel: comparisons of a figure are corrected together.

    >>> figure_of(Claim("2 left", "", ()))
    '2'
    """
    return claim.figure.split(" ")[0]
