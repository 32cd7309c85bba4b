"""Accuracy of every method on one benchmark, with what it cost.

What to see: all methods train; those that move connections are above the fixed masks they start from, and methods that
are allowed dense gradients or dense beginnings pay for them in the column of training FLOPs.
"""

from __future__ import annotations

import pandas as pd

from paper import panels
from paper.experiments import TICKETS_FROM
from paper.figures.data import of_runs, own, scale_of
from paper.tables.markdown import markdown

BENCHMARK = panels.MNIST
TICKETS = "Lottery"
MEANS = ["accuracy", "over_static", "training", "inference", "density", "exploration"]


def rows(results: pd.DataFrame) -> pd.DataFrame:
    """One row a method of the table's declared runs, see `accuracies`.

    Args:
        results: As `paper.figures.data.read` gives them.
    """
    return accuracies(of_runs(own(results), panels.methods_table(scale_of(results), 0)))


def accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method: accuracy in percent (mean and standard deviation over seeds), and costs relative to dense.

    A lottery ticket's training counts the one that found it. ``over_static`` is the mean difference to the static
    network of the same seed, ``over_static_std`` its spread.
    """
    static = runs[runs["method"] == "Static"].set_index("seed")["accuracy"]
    runs = runs.assign(over_static=runs["accuracy"] - runs["seed"].map(static))
    grouped = runs.groupby(["method", "sparsity"], sort=False)
    spreads = grouped[["accuracy", "over_static"]].std().add_suffix("_std")
    table = grouped[MEANS].mean().join(spreads).assign(n=grouped.size()).reset_index()
    finding = table.loc[table["method"] == TICKETS_FROM, "training"].sum()
    table["training"] += finding * table["method"].str.startswith(TICKETS)
    # Two methods may be equal but for the last bit, which depends on the version of pandas.
    ordered = table.sort_values("accuracy", ascending=False, kind="stable", key=lambda accuracy: accuracy.round(6))
    return ordered.reset_index(drop=True)


def frontier(table: pd.DataFrame) -> pd.DataFrame:
    """Methods that no other one beats at their training FLOPs or less, the cheapest first.

    >>> table = pd.DataFrame({"method": ["a", "b", "c"], "training": [0.1, 0.2, 0.3], "accuracy": [90, 89, 95]})
    >>> frontier(table)["method"].tolist()
    ['a', 'c']
    """
    ordered = table.sort_values(["training", "accuracy"], ascending=[True, False], kind="stable")
    return ordered[ordered["accuracy"] > ordered["accuracy"].cummax().shift(fill_value=float("-inf"))]


def as_markdown(table: pd.DataFrame) -> str:
    """The same as a markdown table, the most accurate first."""
    header = [
        "method",
        "accuracy (%)",
        "above static (points)",
        "training FLOPs",
        "inference FLOPs",
        "ever active",
        "n",
    ]
    body = (
        [
            row.method,
            _with_spread(f"{row.accuracy:.2f}", row.accuracy_std),
            "" if row.method == "Static" else _with_spread(f"{row.over_static:+.2f}", row.over_static_std),
            f"{row.training:.3f}",
            f"{row.inference:.3f}",
            f"{row.exploration:.2f}",
            str(row.n),
        ]
        for row in table.itertuples()
    )
    return markdown(header, body)


def _with_spread(mean: str, deviation: float) -> str:
    return mean if deviation != deviation else f"{mean} ± {deviation:.2f}"
