"""The lottery table (paper, appendix E): masks that RigL found, trained again from the initial weights, and RigL.

What to see: a ticket is trained twice, once to find it, and is worse than RigL from random masks, much worse than RigL
trained twice as long, which costs the same.
"""

from __future__ import annotations

import pandas as pd

from paper import panels
from paper.figures.data import join_published, of_runs, own, pick, published, scale_of, summary
from paper.tables.markdown import markdown, mean_and_spread

BENCHMARK = panels.RESNET
TABLE = "v3 Table 3"
KEY = ["method", "multiplier"]
ROWS = (("Static", 1.0), ("Lottery, static", 1.0), ("Lottery, RigL", 1.0), ("RigL", 1.0), ("RigL", 2.0))
FOUND_BY = "RigL"


def rows(results: pd.DataFrame) -> pd.DataFrame:
    """One row a method and length: accuracy (%), its standard deviation, n, and training FLOPs relative to dense.

    FLOPs of a ticket include those of the run that found it.
    """
    runs = of_runs(own(results), panels.lottery_table(scale_of(results), 0))
    if not runs["method"].str.startswith("Lottery").any():
        runs = runs.head(0)
    table = pd.DataFrame(ROWS, columns=KEY).merge(summary(runs, KEY, "accuracy").drop(columns="interval"), on=KEY)
    cost = runs.groupby(KEY)["training"].mean()
    finding = cost.get((FOUND_BY, 1.0), float("nan"))
    table["training"] = [
        cost[method, multiplier] + (finding if method.startswith("Lottery") else 0.0)
        for method, multiplier in zip(table["method"], table["multiplier"], strict=True)
    ]
    theirs = published(pick(results, benchmark=BENCHMARK, source=TABLE))
    return join_published(table, theirs, KEY, ["accuracy", "training"])


def as_markdown(table: pd.DataFrame) -> str:
    """The same as a markdown table."""
    header = [
        "method",
        "length",
        "accuracy (%)",
        "n",
        "training FLOPs",
        "published: accuracy, training FLOPs (ImageNet)",
    ]
    body = (
        [
            row.method,
            f"{row.multiplier:g}",
            mean_and_spread(row),
            str(row.n),
            f"{row.training:.3f}",
            "" if row.published_accuracy != row.published_accuracy else _published(row),
        ]
        for row in table.itertuples()
    )
    return markdown(header, body)


def _published(row: object) -> str:
    return f"{row.published_accuracy:.2f}, {row.published_training:.2f}"  # type: ignore[attr-defined]
