"""Rows of results as the figures read them: own runs that are declared, and published values, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from scipy import stats

from paper import declared
from paper.experiments import Run
from paper.figures.published_rows import PUBLISHED, published_rows
from paper.row_columns import COLUMNS

COMMITTED = Path(__file__).parents[1] / "results"
RESIZED = ("Small-Dense", "Big-Sparse")
"""Methods whose dense network is not that of the benchmark."""
MIN_SEEDS = 3
"""Runs that an interval needs: two say next to nothing (t = 12.7)."""
TEXT = {"config_hash": str, "commit": str, "device": str, "distribution": str, "decay": str}


def read(folder: Path, scale: str) -> pd.DataFrame:
    """Complete own runs of a scale that are declared, of every seed, and the published values, which are nobody's runs.

    Further columns than those of the rows: ``point``, the name of the run's settings without its seed; ``swept``,
    whether it is part of a sweep of mask updates; ``accuracy`` in percent; ``training`` and ``inference``, FLOPs
    relative to those of the dense network, trained once.
    """
    file = folder / f"{scale}.csv"
    rows = pd.read_csv(file, dtype=TEXT) if file.is_file() else pd.DataFrame(columns=list(COLUMNS))
    published = published_rows(pd.read_csv(COMMITTED / "published.csv"))
    return pd.concat([own_rows(rows, scale), published], ignore_index=True)


def own_rows(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Complete runs that are declared today, in the units of the axes."""
    rows = only_declared(rows[rows["status"] == "done"], scale)
    rows["distribution"] = rows["distribution"].fillna("")
    rows["accuracy"] = 100 * rows["val_accuracy"]
    unit = rows[~rows["method"].isin(RESIZED)].groupby("benchmark")
    once = unit[["dense_train_flops", "multiplier", "dense_inference_flops"]].first()
    training = once["dense_train_flops"] / once["multiplier"]
    rows["training"] = rows["train_flops"] / rows["benchmark"].map(training)
    absolute = rows["inference_flops"] * rows["dense_inference_flops"]
    rows["inference"] = absolute / rows["benchmark"].map(once["dense_inference_flops"])
    return rows


def only_declared(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Rows whose identity is that of a declared run, with ``point`` and ``swept``; rows of other settings are old."""
    if "config_hash" not in rows:
        return rows.head(0).assign(point="", swept=False)
    of_identity = declared.by_identity(scale)
    rows = rows[rows["config_hash"].isin(of_identity)].copy()
    runs = [of_identity[identity] for identity in rows["config_hash"]]
    return rows.assign(point=[run.point for run in runs], swept=[declared.is_swept(run) for run in runs])


def own(rows: pd.DataFrame) -> pd.DataFrame:
    """Those measured here."""
    return rows[rows["scale"] != PUBLISHED]


def of_runs(rows: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """Rows of these runs, of every seed.

    >>> rigl = Run("mnist_lenet", "RigL", 0.9, "ERK")
    >>> of_runs(pd.DataFrame({"point": [rigl.point, "another"], "seed": [10, 10]}), [rigl])["point"].tolist()
    ['mnist_lenet-RigL-ERK-0.9']
    """
    return rows[rows["point"].isin({run.point for run in runs})]


def scale_of(rows: pd.DataFrame) -> str:
    """Of own runs; the small one if there are none."""
    scales = own(rows)["scale"].unique()
    return str(scales[0]) if len(scales) else "small"


def published(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the paper and its authors."""
    return rows[rows["scale"] == PUBLISHED]


def join_published(table: pd.DataFrame, theirs: pd.DataFrame, key: list[str], columns: list[str]) -> pd.DataFrame:
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


def summary(rows: pd.DataFrame, x: str | Sequence[str], y: str) -> pd.DataFrame:
    """One row for each x: ``mean``, ``n``, and ``interval``, half the width of the mean's 95 % interval over seeds.

    The interval is missing where n is below `MIN_SEEDS`.
    """
    grouped = rows[rows[y].notna()].groupby(x, sort=True)[y]
    table = grouped.agg(mean="mean", n="count", std="std").reset_index()
    quantile = pd.Series(stats.t.ppf(0.975, (table["n"] - 1).clip(lower=1)), dtype=float)
    table["interval"] = (quantile * table["std"] / table["n"] ** 0.5).where(table["n"] >= MIN_SEEDS)
    return table
