"""The table next to figure 2: every method on ResNet-50's small-scale model, with its costs and the published values.

What to see: the columns of FLOPs are those of the network that ran; ``docs/flops.md`` compares ResNet-50's own with the
published ones.
"""

from __future__ import annotations

import pandas as pd

from paper import panels
from paper.figures.data import join_published, of_runs, own, pick, published, scale_of, summary
from paper.tables.markdown import markdown, mean_and_spread

BENCHMARK = panels.RESNET
KEY = ["method", "distribution", "sparsity", "multiplier"]
TABLE = "v3 Fig. 2 table"
METHODS = ("Dense", "Static", "SNIP", "Small-Dense", "SET", "RigL", "SNFS", "Pruning")


def rows(results: pd.DataFrame) -> pd.DataFrame:
    """One row a method, distribution, sparsity and length: mean, standard deviation, n, FLOPs relative to dense."""
    runs = of_runs(own(results), panels.figure_2(scale_of(results), 0))
    runs = runs.assign(distribution=runs["distribution"].where(runs["method"] != "Small-Dense", ""))
    table = summary(runs, KEY, "accuracy").drop(columns="interval")
    costs = runs.groupby(KEY)[["training", "inference"]].mean().reset_index()
    theirs = published(pick(results, benchmark=BENCHMARK, source=TABLE))
    joined = join_published(
        table.merge(costs, on=KEY), theirs, KEY, ["accuracy", "accuracy_std", "training", "inference"]
    )
    order = {method: position for position, method in enumerate(METHODS)}
    return joined.sort_values(KEY, key=lambda c: c.map(order) if c.name == "method" else c).reset_index(drop=True)


def as_markdown(table: pd.DataFrame) -> str:
    """The same as a markdown table."""
    header = ["method", "distribution", "sparsity", "length", "accuracy (%)", "n", "training FLOPs", "inference FLOPs"]
    body = (
        [
            row.method,
            row.distribution,
            f"{row.sparsity:g}",
            f"{row.multiplier:g}",
            mean_and_spread(row),
            str(row.n),
            f"{row.training:.3f}",
            f"{row.inference:.3f}",
            _published(row),
        ]
        for row in table.itertuples()
    )
    return markdown([*header, "published: accuracy, training, inference (ImageNet)"], body)


def _published(row: object) -> str:
    accuracy = row.published_accuracy  # type: ignore[attr-defined]
    if accuracy != accuracy:
        return ""
    values = (row.published_training, row.published_inference)  # type: ignore[attr-defined]
    return ", ".join([f"{accuracy:.1f}", *("?" if v != v else f"{v:.2f}" for v in values)])
