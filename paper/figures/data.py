"""Rows of results as the figures read them: own runs and published values in one table, in the units of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from paper.experiments import configured_updates
from paper.protocols import PROTOCOLS, Protocol

PUBLISHED = "published"
"""The scale of published values."""
SCALES = ("small", "paper")
RESIZED = ("Small-Dense", "Big-Sparse")
"""Methods whose dense network is not that of the benchmark."""
BENCHMARKS = {"ResNet-50": "imagenet_resnet50", "MobileNet-v1": "imagenet_mobilenet_v1", "WRN-22-2": "cifar10_wrn22"}
METHODS = {"GradualMagnitudePruning": "Pruning"}
# 97.5 % quantiles of Student's t by degrees of freedom: a 95 % interval of a mean. Beyond, that of the last.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
MIN_SEEDS = 3
"""Runs that an interval needs: two say next to nothing (t = 12.7)."""


def read(folder: Path, scale: str) -> pd.DataFrame:
    """Complete own runs of a scale, and the published values.

    Columns beside those of the rows: ``accuracy`` in percent; ``training`` and ``inference``, FLOPs relative to those
    of the dense network, trained once.
    """
    own = _own(pd.read_csv(folder / f"{scale}.csv"))
    return pd.concat([own, _published(pd.read_csv(folder / "published.csv"))], ignore_index=True)


def _own(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["status"] == "done"].copy()
    rows["distribution"] = rows["distribution"].fillna("")
    rows["accuracy"] = 100 * rows["val_accuracy"]
    unit = rows[~rows["method"].isin(RESIZED)].groupby("benchmark")
    once = unit[["dense_train_flops", "multiplier", "dense_inference_flops"]].first()
    training = once["dense_train_flops"] / once["multiplier"]
    rows["training"] = rows["train_flops"] / rows["benchmark"].map(training)
    absolute = rows["inference_flops"] * rows["dense_inference_flops"]
    rows["inference"] = absolute / rows["benchmark"].map(once["dense_inference_flops"])
    return rows


def _published(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["model"].isin(BENCHMARKS)].copy()
    rows["distribution"] = rows["distribution"].fillna("")
    key = ["source", "model", "method", "distribution", "sparsity", "training_multiplier"]
    rows["value"] = pd.to_numeric(rows["published"], errors="coerce")
    # The plain reading of a number first, where there are several.
    rows = rows.sort_values("reading", na_position="first", kind="stable")
    wide = rows.pivot_table(index=key, columns="quantity", values="value", aggfunc="first").reset_index()
    wide = wide[wide["accuracy"].notna()]
    dense = rows[(rows["method"] == "Dense") & (rows["quantity"] == "train_flops_absolute")]
    unit = wide["model"].map(dense.groupby("model")["value"].first())
    wide["training"] = wide["train_flops"].fillna(wide["train_flops_absolute"] / unit)
    is_dense = wide["method"] == "Dense"
    return pd.DataFrame(
        {
            "scale": PUBLISHED,
            "source": wide["source"],
            "benchmark": wide["model"].map(BENCHMARKS),
            "method": wide["method"].replace(METHODS),
            "distribution": wide["distribution"],
            "sparsity": wide["sparsity"],
            "multiplier": wide["training_multiplier"],
            "accuracy": wide["accuracy"],
            "accuracy_std": wide["accuracy_std"],
            "training": wide["training"].where(~is_dense, 1.0),
            "inference": wide["inference_flops"].where(~is_dense, 1.0),
        }
    )


def own(rows: pd.DataFrame) -> pd.DataFrame:
    """Those measured here."""
    return rows[rows["scale"] != PUBLISHED]


def protocol_of(rows: pd.DataFrame, benchmark: str) -> Protocol:
    """How own runs of a benchmark were trained: at the scale of the rows, the small one if there are none."""
    scales = own(rows)["scale"].unique()
    return PROTOCOLS[scales[0] if len(scales) else SCALES[0]][benchmark]


def usual_interval(rows: pd.DataFrame, benchmark: str) -> int:
    """Delta T of the runs that are no part of a sweep."""
    return configured_updates(protocol_of(rows, benchmark))[0]


def published(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the paper and its authors."""
    return rows[rows["scale"] == PUBLISHED]


def beside(table: pd.DataFrame, theirs: pd.DataFrame, key: list[str], columns: list[str]) -> pd.DataFrame:
    """The table with these columns of published rows as ``published_...``, missing where nothing is published."""
    named = theirs[[*key, *columns]].rename(columns={column: f"published_{column}" for column in columns})
    return table.merge(named, on=key, how="left")


def pick(rows: pd.DataFrame, **settings: object) -> pd.DataFrame:
    """Rows with these values; a list stands for any of them.

    >>> pick(pd.DataFrame({"method": ["RigL", "SET"], "seed": [0, 0]}), method="SET")["method"].tolist()
    ['SET']
    """
    chosen = pd.Series(True, index=rows.index)
    for column, value in settings.items():
        chosen &= rows[column].isin(value) if isinstance(value, list | tuple) else rows[column] == value
    return rows[chosen]


def usual_updates(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that are no part of a sweep: the Delta T, alpha, decay and momentum that most of a benchmark's runs have."""
    kept = pd.Series(True, index=rows.index)
    for column in ("delta_t", "alpha", "decay", "snfs_momentum"):
        usual = own(rows).groupby("benchmark")[column].agg(_most_frequent)
        kept &= rows[column].isna() | (rows[column] == rows["benchmark"].map(usual))
    return rows[kept]


def _most_frequent(values: pd.Series) -> object:
    modes = values.mode()
    return modes.iloc[0] if len(modes) else None


def summary(rows: pd.DataFrame, x: str | Sequence[str], y: str) -> pd.DataFrame:
    """One row for each x: ``mean``, ``n``, and ``interval``, half the width of the mean's 95 % interval over seeds.

    The interval is missing where n is below `MIN_SEEDS`.
    """
    grouped = rows[rows[y].notna()].groupby(x, sort=True)[y]
    table = grouped.agg(mean="mean", n="count", std="std").reset_index()
    quantile = [STUDENT_T[min(n - 2, len(STUDENT_T) - 1)] if n >= MIN_SEEDS else float("nan") for n in table["n"]]
    table["interval"] = pd.Series(quantile, dtype=float) * table["std"] / table["n"] ** 0.5
    return table
