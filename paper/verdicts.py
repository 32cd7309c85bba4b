"""How a comparison of runs came out: effect, interval, corrected p-value, verdict, and the pairs it would need.

Runs are paired by seed: the effect is the mean of the differences, tested by Student's t. Within a figure the p-values
are corrected for the number of comparisons (Holm). A comparison holds if its corrected p-value is below 5 % and the
effect has the sign that was claimed. It is refuted if the effect is as clear with the other sign. Otherwise it is
inconclusive.

A comparison that is left inconclusive may get a second test, on new seeds alone, and after it a third. The p-values of
the second count twice and those of the third four times, so that with each correct at 5 % all tests of a figure
together find a difference where there is none with a probability below 10 %. A later test may also find that the two
are level: that their difference is less than a margin (two one-sided tests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

HOLDS, REFUTED, INCONCLUSIVE, TOO_FEW = "holds", "refuted", "inconclusive", "not enough runs"
NO_DIFFERENCE = "level"
LEVEL = 0.05
POWER = 0.8
"""Probability with which the pairs of `Outcome.needed` would show an effect of the size that was found."""
CHANCES = 2
"""How much more often the p-values of a test count than those of the one before."""
MIN_PAIRS = 3
"""Two differences say next to nothing (t = 12.7)."""


@dataclass(frozen=True)
class Outcome:
    """How a comparison came out.

    Attributes:
        effect: Mean difference, in the direction of the claim; None without pairs.
        spread: Standard deviation of the differences.
        n: Pairs of runs with the same seed.
        within: If given, the claim is that the effect is at most this far from zero on either side.
        p: Two-sided p-value of the effect, or of leaving ``within``; corrected once `corrected` has seen it.
        comparisons: How many the p-value is corrected for.
        level: Of a later test: the margin within which the two count as level, or None.
        p_level: P-value of leaving that margin; corrected, it is multiplied by the number of comparisons (Bonferroni).
        counts: How many times the p-values count: 1 in a first test.
    """

    effect: float | None = None
    spread: float = math.nan
    n: int = 0
    within: float | None = None
    p: float = 1.0
    comparisons: int = 1
    level: float | None = None
    p_level: float = 1.0
    counts: int = 1

    @property
    def error(self) -> float:
        """Standard error of the effect."""
        return self.spread / math.sqrt(self.n) if self.n else math.nan

    @property
    def interval(self) -> float | None:
        """Half the effect's 95 % interval, of this comparison alone; None below three pairs."""
        if self.n < MIN_PAIRS:
            return None
        return float(stats.t.ppf(1 - LEVEL / 2, self.n - 1)) * self.error

    @property
    def verdict(self) -> str:
        """In words."""
        if self.effect is None or self.n < MIN_PAIRS:
            return TOO_FEW
        if self.p >= LEVEL:
            return NO_DIFFERENCE if self.p_level < LEVEL else INCONCLUSIVE
        holds = abs(self.effect) < self.within if self.within is not None else self.effect > 0
        return HOLDS if holds else REFUTED

    @property
    def needed(self) -> int | None:
        """Pairs that would show an effect of this size with `POWER`; None unless the comparison is inconclusive.

        By Student's t, in a test like this one, at the level that the most extreme of the figure's comparisons has to
        pass.
        """
        if self.verdict != INCONCLUSIVE or self.effect is None:
            return None
        distance = abs(self.effect) if self.within is None else abs(self.within - abs(self.effect))
        if distance == 0:
            return None
        level = LEVEL / self.comparisons / self.counts
        size = distance / self.spread
        quantiles = stats.norm.isf(level / 2) + stats.norm.ppf(POWER)
        n = max(math.ceil((quantiles / size) ** 2), self.n + 1)  # by the normal distribution: too few, but not by many
        while _power(size, n, level) < POWER:
            n += 1
        return n


def of_differences(differences: pd.Series | Sequence[float], within: float | None = None) -> Outcome:
    """Outcome of paired differences, each in the direction of the claim.

    >>> of_differences([1.0, 2.0, 3.0]).effect
    2.0
    """
    values = pd.Series(differences, dtype=float).dropna()
    n = len(values)
    if n == 0:
        return Outcome(within=within)
    spread = float(values.std()) if n > 1 else math.nan
    return with_p_value(Outcome(float(values.mean()), spread, n, within))


def with_p_value(outcome: Outcome) -> Outcome:
    """The outcome with the p-value of its effect and spread, before any correction."""
    if outcome.effect is None or outcome.n < MIN_PAIRS:
        return outcome
    if outcome.within is None:
        return replace(outcome, p=_two_sided(outcome.effect, outcome))
    margin = outcome.within - abs(outcome.effect)
    # Inside: the nearer of the two bounds, tested on one side (two one-sided tests). Outside: as any other effect.
    p = _two_sided(margin, outcome)
    return replace(outcome, p=p / 2 if margin > 0 else p)


def of_later_test(
    differences: pd.Series | Sequence[float], test: int, within: float | None = None, level: float | None = None
) -> Outcome:
    """Outcome of the paired differences of new seeds, of a comparison that the test before left inconclusive.

    >>> of_later_test([0.1, -0.1, 0.0, 0.1], test=2, level=1.0).verdict
    'level'
    """
    times = CHANCES ** (test - 1)
    outcome = of_differences(differences, within)
    inside = level is not None and outcome.effect is not None and abs(outcome.effect) < level
    p_level = with_p_value(replace(outcome, within=level)).p if inside else 1.0
    p, p_level = (min(1.0, times * p) for p in (outcome.p, p_level))
    return replace(outcome, p=p, level=level, p_level=p_level, counts=times)


def _two_sided(distance: float, outcome: Outcome) -> float:
    if outcome.error == 0:  # costs do not depend on the seed
        return 0.0 if distance else 1.0
    return float(2 * stats.t.sf(abs(distance) / outcome.error, outcome.n - 1))


def _power(size: float, n: int, level: float) -> float:
    """Probability that a two-sided test of ``n`` pairs finds an effect of ``size`` standard deviations.

    >>> round(_power(0.5, 34, 0.05), 2)
    0.81
    """
    return float(stats.nct.sf(stats.t.isf(level / 2, n - 1), n - 1, size * math.sqrt(n)))


def corrected(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, list[Outcome]]:
    """Outcomes by figure with p-values corrected for the comparisons of the same figure (Holm 1979)."""
    return {figure: _holm(of_figure) for figure, of_figure in outcomes.items()}


def _holm(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Each p-value times the number of comparisons that are not smaller, made monotone.

    >>> [o.p for o in _holm([Outcome(p=0.03), Outcome(p=0.01)])]
    [0.03, 0.02]
    """
    m, largest = len(outcomes), 0.0
    corrected = list(outcomes)
    for rank, i in enumerate(sorted(range(m), key=lambda i: outcomes[i].p)):
        largest = max(largest, min(1.0, (m - rank) * outcomes[i].p))
        p_level = min(1.0, m * outcomes[i].p_level)
        corrected[i] = replace(outcomes[i], p=largest, comparisons=m, p_level=p_level)
    return corrected


def of_claim(verdicts: Sequence[str]) -> str:
    """Verdict of a claim: it holds if all its comparisons do, is refuted if one is, and level if one is no more."""
    return next((v for v in (REFUTED, TOO_FEW, INCONCLUSIVE, NO_DIFFERENCE) if v in verdicts), HOLDS)
