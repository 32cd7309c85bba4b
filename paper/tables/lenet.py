"""LeNet-300-100 on MNIST at the paper's own length, and what the paper's appendix B published.

What to see: the test error of each method; how small RigL's network is once unused inputs and neurons are cut out.
"""

from __future__ import annotations

import pandas as pd

from paper import panels
from paper.figures.data import of_runs, own
from paper.tables.markdown import markdown

KEY = ["method", "distribution", "sparsity"]
TABLE = "v3 Table 2"
SCALE = "paper"
MEANS = ["training", "inference", "kiloflops", "size_bytes"]


def rows(results: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """One row a setting, ours first: test error (%), n, FLOPs relative to dense, and the network that is left.

    ``units``, ``kiloflops`` and ``size_bytes`` are those of the network of its remaining units:
    counts of units are medians over the seeds, the others means.

    Args:
        results: As `paper.figures.data.read` gives them at the paper's scale.
        published: Rows of ``published.csv``.
    """
    runs = of_runs(own(results), panels.lenet_table(SCALE, 0))
    if not len(runs):
        return _published(published)
    runs = runs.assign(error=100 - runs["accuracy"])
    for column in ("units", *MEANS):
        runs[column] = runs[column] if column in runs else float("nan")
    grouped = runs.groupby(KEY, sort=False)
    table = grouped[MEANS].mean().assign(units=grouped["units"].agg(_median_units))
    table = table.assign(error=grouped["error"].mean(), error_std=grouped["error"].std(), n=grouped.size())
    ours = table.reset_index().assign(source="ours").sort_values("error", kind="stable")
    return pd.concat([ours, _published(published)], ignore_index=True)


def _median_units(units: pd.Series) -> str:
    counts = pd.DataFrame([u.split("-") for u in units if isinstance(u, str)], dtype=float)
    return "-".join(f"{n:g}" for n in counts.median()) if len(counts) else ""


def _published(published: pd.DataFrame) -> pd.DataFrame:
    of_table = published[published["source"] == TABLE]
    wide = of_table.assign(value=pd.to_numeric(of_table["published"])).pivot_table(
        index=["model", "method", "sparsity"], columns="quantity", values="value", sort=False
    )
    wide = wide.reset_index()
    return pd.DataFrame(
        {
            "source": "published",
            "method": wide["method"],
            "distribution": "",
            "sparsity": wide["sparsity"],
            "units": wide["model"].str.removeprefix("LeNet "),
            "kiloflops": wide["inference_flops_absolute"] / 1000,
            "size_bytes": wide["size_bytes"],
            "error": wide["error"],
        }
    )


def as_markdown(table: pd.DataFrame) -> str:
    """The same as a markdown table."""
    header = ["", "method", "layer sparsities", "sparsity", "test error (%)", "n", "training FLOPs", "inference FLOPs"]
    body = (
        [
            "measured" if row.source == "ours" else row.source,
            row.method,
            row.distribution,
            f"{row.sparsity:g}",
            _number(row.error, ".2f") + (f" ± {row.error_std:.2f}" if getattr(row, "n", 0) > 1 else ""),
            _number(getattr(row, "n", float("nan")), ".0f"),
            _number(getattr(row, "training", float("nan")), ".3f"),
            _number(getattr(row, "inference", float("nan")), ".3f"),
            row.units,
            _number(row.kiloflops, ".1f"),
            _number(row.size_bytes, ",.0f"),
        ]
        for row in table.itertuples()
    )
    return markdown([*header, "remaining units", "their KFLOPs", "their bytes"], body)


def _number(value: float, form: str) -> str:
    return "" if value != value else f"{value:{form}}"
