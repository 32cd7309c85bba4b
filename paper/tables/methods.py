"""Accuracy of every method on one benchmark, with what it cost.

What to see: all methods train; those that move connections are above the fixed masks they start from, and methods that
are allowed dense gradients or dense beginnings pay for them in the column of training FLOPs.
"""

from __future__ import annotations

import pandas as pd

from paper.tables.markdown import markdown

RESULTS = "small.csv"
BENCHMARK = "mnist_lenet"


def rows(results: pd.DataFrame, benchmark: str = BENCHMARK) -> pd.DataFrame:
    """One row a method: accuracy in percent (mean and standard deviation over seeds), and costs relative to dense.

    A lottery ticket's training does not count the one that found it.
    ``over_static`` is the mean difference to the static network of the same seed, ``over_static_std`` its spread.
    """
    runs = results[(results["benchmark"] == benchmark) & (results["status"] == "done")].copy()
    runs["accuracy"] = 100 * runs["val_accuracy"]
    # Small-Dense is dense itself: its costs, too, are those relative to the network of full width.
    full = runs.loc[runs["method"] == "Dense", "dense_train_flops"].mean()
    runs["inference_flops"] *= runs["dense_train_flops"] / full
    runs["train_flops"] /= full
    static = runs[runs["method"] == "Static"].set_index("seed")["accuracy"]
    runs["over_static"] = runs["accuracy"] - runs["seed"].map(static)
    grouped = runs.groupby(["method", "sparsity"], sort=False)
    means = grouped[["accuracy", "over_static", "train_flops", "inference_flops", "density", "exploration"]].mean()
    spreads = grouped[["accuracy", "over_static"]].std().add_suffix("_std")
    table = means.join(spreads).assign(n=grouped.size()).reset_index()
    return table.sort_values("accuracy", ascending=False, kind="stable").reset_index(drop=True)


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
            f"{row.accuracy:.2f} ± {row.accuracy_std:.2f}",
            "" if row.method == "Static" else f"{row.over_static:+.2f} ± {row.over_static_std:.2f}",
            f"{row.train_flops:.3f}",
            f"{row.inference_flops:.3f}",
            f"{row.exploration:.2f}",
            str(row.n),
        ]
        for row in table.itertuples()
    )
    return markdown(header, body)
