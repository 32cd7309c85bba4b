"""What a claim is made of: comparisons of declared runs, and a maker of runs.

A comparison names its runs without their seeds: those are `paper.experiments.CLAIM_SEEDS`, and of each later test the
seeds after those of the test before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from paper.experiments import CLAIM_SEEDS, Run, declared
from paper.protocols import PROTOCOLS


@dataclass(frozen=True)
class Again:
    """A further test of a comparison that the one before has left inconclusive, declared before its runs.

    Attributes:
        n: Pairs, all of new seeds: about as many as the test before says it needs, or, where that is beyond reach, as
            tell a difference of ``level`` from none.
        level: The two count as level if they are shown to differ by less than this. None: that is not asked.
        better: Runs in the place of those of the first test, where its protocol was at fault (``LOG.md`` says why).
        worse: Likewise.
        then: The test after this one, or None.
        name: What is compared, where ``better`` and ``worse`` make it another comparison than its name says.
    """

    n: int
    level: float | None = None
    better: tuple[Run, ...] = ()
    worse: tuple[Run, ...] = ()
    then: Again | None = None
    name: str = ""


@dataclass(frozen=True)
class Comparison:
    """One set of runs should be better than another.

    Attributes:
        name: What is compared, in a few words.
        better: Runs, of any seed, that should be better; if there are several, their mean counts.
        worse: The others.
        column: What is compared.
        sign: 1 if more is better, -1 if less is.
        over: If given, the trend is compared instead: the slope of the column over this quantity of the runs, in
            units of the column; without ``worse``, the slope itself. Key of `TRENDS`.
        within: If given, the claim is that the two differ by at most this much.
        again: Its second test, or None.
    """

    name: str
    better: tuple[Run, ...]
    worse: tuple[Run, ...] = ()
    column: str = "accuracy"
    sign: int = 1
    over: str = ""
    within: float | None = None
    again: Again | None = None

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them."""
        return self.better + self.worse

    @property
    def later(self) -> Iterator[tuple[Again, Comparison, tuple[int, ...]]]:
        """Of the second test and those after it: what was declared, what is compared, and the seeds."""
        again, seed = self.again, CLAIM_SEEDS[-1] + 1
        while again is not None:
            compared = self
            if again.better:
                compared = replace(self, name=again.name or self.name, better=again.better, worse=again.worse)
            yield again, compared, tuple(range(seed, seed + again.n))
            seed += again.n
            again = again.then


TRENDS: dict[str, Callable[[Run], float]] = {
    "doubling of the training": lambda run: math.log2(run.multiplier),
    "halving of the density": lambda run: -math.log2(1 - run.sparsity),
}
"""What a trend runs over: one unit of the quantity is what the name says."""


@dataclass(frozen=True)
class Claim:
    """A sentence about a figure.

    Attributes:
        figure: Number, and panel; or the name of a table.
        sentence: What must be visible.
        comparisons: All must hold.
        source: Whether the paper says it ("paper") or we do ("own").
    """

    figure: str
    sentence: str
    comparisons: tuple[Comparison, ...]
    source: str = "paper"


class Bench:
    """Makes the runs of a benchmark at a scale: its sparsity, distribution and usual length unless told otherwise."""

    def __init__(self, scale: str, benchmark: str) -> None:
        self.scale, self.benchmark = scale, benchmark
        self.protocol = PROTOCOLS[scale][benchmark]

    def __call__(self, method: str, sparsity: float | None = None, **settings: object) -> Run:
        """A run of seed 0."""
        if method == "Dense":
            settings |= {"sparsity": 0.0, "distribution": ""}
        else:
            settings.setdefault("sparsity", self.protocol.sparsity if sparsity is None else sparsity)
            settings.setdefault("distribution", self.protocol.distribution)
        settings.setdefault("multiplier", self.protocol.usual_multiplier)
        return declared(Run(self.benchmark, method, scale=self.scale, **settings))  # type: ignore[arg-type]

    def over(self, better: str, worse: str, sparsity: float | None = None, **settings: object) -> Comparison:
        """One method over another, both with the same settings."""
        at = "" if sparsity is None else f" at {sparsity:g}"
        return Comparison(
            f"{better} over {worse}{at}", (self(better, sparsity, **settings),), (self(worse, sparsity, **settings),)
        )
