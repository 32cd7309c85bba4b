"""What the rows say to somebody who chooses a method, a sparsity, an interval: the tables of ``docs/choosing.md``."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from paper import panels
from paper.figures.data import own
from paper.tables.markdown import markdown

METHODS = ("Pruning", "SNFS", "RigL", "SET", "Static")
PLACES = ((panels.MNIST, 0.99, "LeNet-300-100, 99 %"), (panels.RESNET, 0.95, "WRN-10-1, 95 %"))
OVER_SPARSITY = (
    (panels.RESNET, "ERK", "WRN-10-1, ERK"),
    (panels.RESNET, "uniform", "WRN-10-1, uniform"),
    (panels.WRN, "ERK", "WRN-22-2, ERK"),
)
SWEPT = {"benchmark": panels.MNIST, "sparsity": 0.99, "method": "RigL", "distribution": "ERK", "decay": "cosine"}


def parts(results: pd.DataFrame) -> dict[str, str]:
    """The tables as markdown, by the names of their markers.

    Args:
        results: As `paper.figures.data.read` gives them, of the small scale.
    """
    runs = own(results)
    usual = runs[runs["multiplier"].eq(1) & ~runs["swept"].astype(bool)]
    return {
        "by_method": _by_method(usual),
        "by_sparsity": _by_sparsity(usual),
        "by_interval": _by_interval(runs),
    }


def _by_method(runs: pd.DataFrame) -> str:
    body = []
    for method in METHODS:
        cells = [method]
        for benchmark, sparsity, _ in PLACES:
            found = _of(runs, benchmark=benchmark, sparsity=sparsity, distribution="ERK", method=method)
            cells += [_accuracy(found), _number(found["training"], 3)]
        body.append(cells)
    header = ["method (ERK)"]
    for *_, title in PLACES:
        header += [f"{title}: accuracy (%)", "training FLOPs"]
    return markdown(header, body)


def _by_sparsity(runs: pd.DataFrame) -> str:
    rigl = _of(runs, method="RigL")
    body = []
    for sparsity in sorted(_of(rigl, benchmark=panels.RESNET)["sparsity"].unique()):
        cells = [f"{sparsity:g}"]
        for benchmark, distribution, _ in OVER_SPARSITY:
            found = _of(rigl, benchmark=benchmark, sparsity=sparsity, distribution=distribution)
            cells += [_accuracy(found), _number(found["training"], 3)]
        body.append(cells)
    header = ["sparsity"]
    for *_, title in OVER_SPARSITY:
        header += [f"{title}: accuracy (%)", "training FLOPs"]
    return markdown(header, body)


def _by_interval(runs: pd.DataFrame) -> str:
    swept = _of(runs, **SWEPT, multiplier=1.0)
    body = []
    for interval in sorted(swept["delta_t"].dropna().unique()):
        found = swept[swept["delta_t"] == interval]
        at_fractions = [_accuracy(_of(found, alpha=alpha)) for alpha in panels.DROP_FRACTIONS]
        body.append([f"{interval:g}", f"{found['steps'].iloc[0] / interval:g}", *at_fractions])
    header = ["interval ΔT (steps)", "intervals in the training"]
    return markdown([*header, *(f"drop fraction {alpha:g}: accuracy (%)" for alpha in panels.DROP_FRACTIONS)], body)


def _of(runs: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        runs = runs[runs[column] == value]
    return runs


def _accuracy(runs: pd.DataFrame) -> str:
    accuracy = runs["accuracy"].dropna()
    if not len(accuracy):
        return ""
    spread = f" ± {accuracy.std():.1f}" if len(accuracy) > 1 else ""
    return f"{accuracy.mean():.1f}{spread} (n = {len(accuracy)})"


def _number(values: Sequence[float] | pd.Series, digits: int) -> str:
    return f"{pd.Series(values).mean():.{digits}f}" if len(values) else ""
