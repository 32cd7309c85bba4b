"""What the figures should show, each sentence tested on the rows: holds, does not hold, or not enough runs.

    python paper/make_figures.py      (writes the table into paper/README.md)

A claim is one or more contrasts: one set of runs better than another. Runs are paired by seed, and the effect is the
mean of the differences with its 95 % interval (Student's t). A contrast holds if the whole interval is above zero, and
is refuted if it is below; one that contains zero is undecided. A claim holds if all its contrasts do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pandas as pd

from paper.figures.data import MIN_SEEDS, STUDENT_T, own, pick, protocol_of, usual_updates
from paper.tables.markdown import markdown

LANDSCAPE, ESCAPE = "loss_landscape.csv", "escape.csv"
RESNET, WRN, GRU = "imagenet_resnet50", "cifar10_wrn22", "char_gru"
V1, V2 = "imagenet_mobilenet_v1", "imagenet_mobilenet_v2"
HOLDS, FAILS, UNDECIDED, TOO_FEW = "holds", "does not hold", "not told apart", "not enough runs"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Contrast:
    """One set of runs should be better than another.

    Attributes:
        name: What is compared, in a few words.
        better: Values of columns that pick the runs that should be better.
        worse: Those of the others.
        column: What is compared.
        sign: 1 if more is better, -1 if less is.
        sweep: Whether the runs are of a sweep, so that settings of updates are picked by name.
    """

    name: str
    better: Settings
    worse: Settings
    column: str = "accuracy"
    sign: int = 1
    sweep: bool = False


@dataclass(frozen=True)
class Claim:
    """A sentence about a figure.

    Attributes:
        figure: Number, and panel.
        sentence: What must be visible.
        contrasts: From the sparsities and the like that there are rows of, what is compared.
    """

    figure: str
    sentence: str
    contrasts: Callable[[pd.DataFrame], list[Contrast]] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """How a contrast came out.

    Attributes:
        effect: Mean difference, in the direction of the claim; None without runs.
        interval: Half its 95 % interval; None below three pairs.
        n: Pairs of runs with the same seed.
    """

    effect: float | None
    interval: float | None
    n: int

    @property
    def verdict(self) -> str:
        """In words."""
        if self.effect is None or self.interval is None:
            return TOO_FEW
        if self.effect > self.interval:
            return HOLDS
        return FAILS if self.effect < -self.interval else UNDECIDED


def paired(rows: pd.DataFrame, contrast: Contrast) -> Outcome:
    """The differences of runs with the same seed; where several runs are one side, of the means of as many."""
    better, worse = (pick(rows, **side).groupby("seed")[contrast.column] for side in (contrast.better, contrast.worse))
    n_runs = pd.concat([better.count(), worse.count()], axis=1).max(axis=None)
    differences = better.mean()[better.count() == n_runs] - worse.mean()[worse.count() == n_runs]
    return of_differences(contrast.sign * differences.dropna())


def of_differences(differences: pd.Series) -> Outcome:
    """Mean and interval."""
    n = len(differences)
    if n == 0:
        return Outcome(None, None, 0)
    if n < MIN_SEEDS:
        return Outcome(float(differences.mean()), None, n)
    quantile = STUDENT_T[min(n - 2, len(STUDENT_T) - 1)]
    return Outcome(float(differences.mean()), quantile * float(differences.std()) / n**0.5, n)


def _at_sparsities(
    rows: pd.DataFrame, benchmark: str, contrasts: Callable[[str, float | list[float]], list[Contrast]]
) -> list[Contrast]:
    """The contrasts, given a label, at each sparsity, and on the mean of all, whose interval is narrower."""
    sparsities = _sparsities(rows, benchmark)
    each = [contrast for s in sparsities for contrast in contrasts(f"{s:g}", s)]
    return [*each, *contrasts("mean", sparsities)] if len(sparsities) > 1 else each


def _sparsities(rows: pd.DataFrame, benchmark: str) -> list[float]:
    return sorted(float(s) for s in own(rows).loc[own(rows)["benchmark"].eq(benchmark), "sparsity"].unique() if s > 0)


def _swept(rows: pd.DataFrame, benchmark: str) -> float:
    """The sparsity of the panels with one sparsity: that with the most runs."""
    of = own(rows)
    of = of[of["benchmark"].eq(benchmark) & of["sparsity"].gt(0)]
    return float(of["sparsity"].mode().iloc[0]) if len(of) else 0.9


def _resnet(
    method: str, sparsity: float | list[float], multiplier: float = 1.0, distribution: str = "uniform"
) -> Settings:
    return {
        "benchmark": RESNET,
        "method": method,
        "sparsity": sparsity,
        "multiplier": multiplier,
        "distribution": distribution,
    }


def _order_at_equal_flops(rows: pd.DataFrame) -> list[Contrast]:
    s = _swept(rows, RESNET)
    pairs = (*pairwise(("RigL", "SET", "Small-Dense", "Static")), ("RigL", "Static"))
    return [
        Contrast(f"{m:g}x: {a} over {b}", _resnet(a, s, m), _resnet(b, s, m))
        for m in protocol_of(rows, RESNET).multipliers
        for a, b in pairs
    ]


def _rigl_gains(rows: pd.DataFrame) -> list[Contrast]:
    s = _swept(rows, RESNET)
    lengths = ((2.0, 1.0), (_extended(rows), 2.0))
    return [
        Contrast(f"{long:g}x over {short:g}x", _resnet("RigL", s, long), _resnet("RigL", s, short))
        for long, short in lengths
    ]


def _extended(rows: pd.DataFrame) -> float:
    return float(protocol_of(rows, RESNET).extended)


def _snfs_costs(rows: pd.DataFrame) -> list[Contrast]:
    s = _swept(rows, RESNET)
    return [Contrast("training FLOPs of SNFS over RigL", _resnet("SNFS", s), _resnet("RigL", s), "training")]


def _rigl_meets_pruning(rows: pd.DataFrame) -> list[Contrast]:
    def contrasts(label: str, s: float | list[float]) -> list[Contrast]:
        return [Contrast(label, _resnet("RigL", s, _extended(rows), "ERK"), _resnet("Pruning", s, 1.5))]

    return _at_sparsities(rows, RESNET, contrasts)


def _mobilenet_order(rows: pd.DataFrame) -> list[Contrast]:
    return [contrast for benchmark in (V1, V2) for contrast in _order_of(benchmark, rows)]


def _order_of(benchmark: str, rows: pd.DataFrame) -> list[Contrast]:
    def contrasts(label: str, s: float | list[float]) -> list[Contrast]:
        common = {"benchmark": benchmark, "sparsity": s, "distribution": "uniform"}
        name = benchmark.removeprefix("imagenet_")
        return [
            Contrast(f"{name} {label}: {a} over {b}", {**common, "method": a}, {**common, "method": b})
            for a, b in pairwise(("RigL", "Pruning", "Small-Dense"))
        ]

    return _at_sparsities(rows, benchmark, contrasts)


def _big_sparse(rows: pd.DataFrame) -> list[Contrast]:
    return [
        Contrast(
            "uniform",
            {"benchmark": V1, "method": "Big-Sparse", "distribution": "uniform"},
            {"benchmark": V1, "method": "Dense"},
        )
    ]


def _gru(method: str, multiplier: float) -> Settings:
    return {"benchmark": GRU, "method": method, "multiplier": multiplier}


def _gru_pruning_best(rows: pd.DataFrame) -> list[Contrast]:
    return [
        Contrast(f"over {m}", _gru("Pruning", 1.0), _gru(m, 1.0), "val_bits", -1)
        for m in ("RigL", "SNFS", "SET", "Static")
    ]


def _gru_improves(rows: pd.DataFrame) -> list[Contrast]:
    return [
        Contrast(f"{m} {long:g}x over 1x", _gru(m, long), _gru(m, 1.0), "val_bits", -1)
        for m in ("RigL", "SNFS")
        for long in (2.0, 3.0)
    ]


def _wrn(method: str, sparsity: float | list[float], multiplier: float = 1.0) -> Settings:
    return {
        "benchmark": WRN,
        "method": method,
        "sparsity": sparsity,
        "multiplier": multiplier,
        "distribution": "uniform" if method == "Pruning" else "ERK",
    }


def _wrn_rigl_over_static(rows: pd.DataFrame) -> list[Contrast]:
    def contrasts(label: str, s: float | list[float]) -> list[Contrast]:
        return [Contrast(f"{label}, {m:g}x", _wrn("RigL", s, m), _wrn("Static", s, m)) for m in (1.0, 2.0)]

    return _at_sparsities(rows, WRN, contrasts)


def _erk_best(method: str) -> Callable[[pd.DataFrame], list[Contrast]]:
    def contrasts(label: str, s: float | list[float]) -> list[Contrast]:
        return [
            Contrast(f"{label}: over {d}", _resnet(method, s, 1.0, "ERK"), _resnet(method, s, 1.0, d))
            for d in ("uniform", "ER")
        ]

    return lambda rows: _at_sparsities(rows, RESNET, contrasts)


def _intervals(rows: pd.DataFrame) -> list[Contrast]:
    runs = pick(own(rows), benchmark=RESNET, method="RigL", decay="cosine", multiplier=1.0, distribution="uniform")
    s, intervals = _swept(rows, RESNET), sorted(runs["delta_t"].dropna().unique())
    if len(intervals) < 2:
        return []
    base = {**_resnet("RigL", s), "decay": "cosine", "alpha": 0.3}
    best = intervals[1]
    return [
        Contrast(f"ΔT {best:g} over {other:g}", {**base, "delta_t": best}, {**base, "delta_t": other}, sweep=True)
        for other in intervals
        if other != best
    ]


def _alphas(rows: pd.DataFrame) -> list[Contrast]:
    runs = pick(own(rows), benchmark=RESNET, method="RigL", decay="cosine", multiplier=1.0, distribution="uniform")
    intervals = sorted(runs["delta_t"].dropna().unique())
    if len(intervals) < 2:
        return []
    base = {**_resnet("RigL", _swept(rows, RESNET)), "decay": "cosine", "delta_t": intervals[1]}
    return [Contrast(f"α {a:g} over 0.1", {**base, "alpha": a}, {**base, "alpha": 0.1}, sweep=True) for a in (0.3, 0.5)]


def _constant_declines(rows: pd.DataFrame) -> list[Contrast]:
    runs = pick(own(rows), benchmark=RESNET, method="RigL", decay="constant")
    intervals = sorted(runs["delta_t"].dropna().unique())
    if len(intervals) < 2:
        return []
    base = {**_resnet("RigL", _swept(rows, RESNET)), "decay": "constant", "delta_t": intervals[1]}
    return [Contrast("α 0.1 over 0.5", {**base, "alpha": 0.1}, {**base, "alpha": 0.5}, sweep=True)]


def _static_loss_worst(rows: pd.DataFrame) -> list[Contrast]:
    def contrasts(label: str, s: float | list[float]) -> list[Contrast]:
        return [
            Contrast(f"{label}: {m} below Static", _wrn(m, s), _wrn("Static", s), "final_train_loss", -1)
            for m in ("RigL", "Pruning")
        ]

    return _at_sparsities(rows, WRN, contrasts)


def _tickets(rows: pd.DataFrame) -> list[Contrast]:
    sparsity = _swept(rows, RESNET)
    tickets = ("Lottery, static", "Lottery, RigL")
    return [
        Contrast(f"RigL{' 2x' if m > 1 else ''} over {t}", _resnet("RigL", sparsity, m), _resnet(t, sparsity))
        for m in (1.0, 2.0)
        for t in tickets
    ]


CLAIMS = (
    Claim(
        "2 left",
        "At equal length RigL is above SET, SET above Small-Dense, Small-Dense above Static; so RigL above Static.",
        _order_at_equal_flops,
    ),
    Claim("2 left", "RigL keeps gaining with the training multiplier.", _rigl_gains),
    Claim("2 left", "SNFS costs more training FLOPs than RigL.", _snfs_costs),
    Claim(
        "2 right",
        "Extended RigL (ERK) beats pruning 1.5 times as long at every sparsity.",
        _rigl_meets_pruning,
    ),
    Claim("3 left", "RigL is above pruning, pruning above Small-Dense.", _mobilenet_order),
    Claim("3 right", "Big-Sparse beats the dense network of equal inference FLOPs.", _big_sparse),
    Claim("4 left", "Pruning has the fewest bits per character.", _gru_pruning_best),
    Claim("4 left", "RigL and SNFS improve with longer training.", _gru_improves),
    Claim("4 right", "RigL is above Static at every sparsity.", _wrn_rigl_over_static),
    Claim("5 left", "ERK is the best distribution for RigL.", _erk_best("RigL")),
    Claim("5 right", "The second shortest interval (the paper's 100) is best at α = .3.", _intervals),
    Claim("5 right", "α of .3 and .5 are above .1 at that interval.", _alphas),
    *(Claim("7 left", f"ERK is the best distribution for {m}.", _erk_best(m)) for m in ("SET", "SNFS", "Static")),
    Claim("9", "With a constant drop fraction α = .5 is worse than .1.", _constant_declines),
    Claim(
        "10 left",
        "Static has a higher final training loss than RigL and pruning at every sparsity.",
        _static_loss_worst,
    ),
    Claim(
        "lottery table",
        "RigL is above its own tickets, trained again from their initial weights; twice as long, at their cost, too.",
        _tickets,
    ),
)


def table(
    rows: pd.DataFrame, landscape: pd.DataFrame | None = None, escape: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a contrast: figure, sentence, what is compared, effect, interval, n, and the verdict.

    Args:
        rows: As `paper.figures.data.read` gives them.
        landscape: Rows of ``studies/loss_landscape.py``.
        escape: Those of its restarts.
    """
    measured = own(rows)
    usual = usual_updates(measured)
    found = []
    for claim in CLAIMS:
        contrasts = claim.contrasts(rows) or [Contrast("", {"seed": -1}, {"seed": -1})]
        for contrast in contrasts:
            found.append(
                _row(
                    claim.figure, claim.sentence, contrast.name, paired(measured if contrast.sweep else usual, contrast)
                )
            )
    found += _landscape_rows(landscape, escape)
    return pd.DataFrame(found)


def _landscape_rows(landscape: pd.DataFrame | None, escape: pd.DataFrame | None) -> list[dict[str, Any]]:
    barriers = _barriers(landscape)
    linear, dense = barriers.get("linear"), barriers.get("dense quadratic")
    found = []
    for curve in ("sparse quadratic", "sparse cubic", "dense quadratic"):
        difference = pd.Series(dtype=float) if linear is None or curve not in barriers else linear - barriers[curve]
        sentence = "The barrier of the training loss is lower on curves than on the line."
        found.append(_row("6 left", sentence, curve, of_differences(difference.dropna())))
    for curve in ("sparse quadratic", "sparse cubic"):
        difference = pd.Series(dtype=float) if dense is None or curve not in barriers else barriers[curve] - dense
        sentence = "It is lower through the dense space than on sparse curves."
        found.append(_row("6 left", sentence, curve, of_differences(difference.dropna())))
    final = {} if escape is None or not len(escape) else _final_losses(escape)
    difference = final["Static"] - final["RigL"] if {"Static", "RigL"} <= set(final) else pd.Series(dtype=float)
    sentence = "RigL, started from the static solution, ends at a lower training loss than Static started there."
    return [*found, _row("6 right", sentence, "loss of Static minus RigL", of_differences(difference.dropna()))]


def _barriers(landscape: pd.DataFrame | None) -> dict[str, pd.Series]:
    """By curve and seed, how far the highest loss on it is above the higher of its ends."""
    if landscape is None or not len(landscape):
        return {}
    barriers = {}
    for name, of_curve in landscape.groupby("curve"):
        by_seed = of_curve.groupby("seed")
        ends = by_seed.apply(lambda g: max(g.loc[g["t"].idxmin(), "loss"], g.loc[g["t"].idxmax(), "loss"]))
        barriers[str(name)] = by_seed["loss"].max() - ends
    return barriers


def _final_losses(escape: pd.DataFrame) -> dict[str, pd.Series]:
    last = escape[escape["step"] >= 0.9 * escape["step"].max()]
    return {str(m): g.groupby("seed")["train_loss"].mean() for m, g in last.groupby("method")}


def _row(figure: str, sentence: str, contrast: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "figure": figure,
        "claim": sentence,
        "compared": contrast,
        "effect": outcome.effect,
        "interval": outcome.interval,
        "n": outcome.n,
        "verdict": outcome.verdict,
    }


def verdict_of(contrasts: pd.DataFrame) -> str:
    """Of a claim, from the rows of its contrasts."""
    verdicts = set(contrasts["verdict"])
    return next((v for v in (FAILS, TOO_FEW, UNDECIDED) if v in verdicts), HOLDS)


def as_markdown(found: pd.DataFrame) -> str:
    """One row a claim; every contrast on a line with its effect, interval, n and verdict."""
    body = []
    for (figure, sentence), contrasts in found.groupby(["figure", "claim"], sort=False):
        details = "<br>".join(_detail(row) for row in contrasts.itertuples())
        body.append([str(figure), str(sentence), verdict_of(contrasts), details])
    return markdown(["figure", "claim", "at this scale", "effect ± 95 % interval (n)"], body)


def _detail(row: Any) -> str:
    if row.n == 0:
        return f"{row.compared}: no pair".removeprefix(": ")
    interval = "" if row.interval != row.interval or row.interval is None else f" ± {row.interval:.2g}"
    verdict = "" if row.verdict == TOO_FEW else f" {row.verdict}"
    return f"{row.compared}: {row.effect:+.3g}{interval} ({row.n}){verdict}"
