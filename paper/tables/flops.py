"""FLOPs, sizes and widths: every published number with the counted one, and counted ones alone where none is published.

What to see: the published multipliers are reproduced to 0.01 under a reading that is named; where the paper contradicts
itself both readings are rows, with the reason in the source.
"""

from __future__ import annotations

import pandas as pd

from paper.tables.markdown import markdown

COMPUTED, PUBLISHED = "flops.csv", "published.csv"
TOLERANCE = 0.01
KEY = ["model", "method", "distribution", "sparsity", "training_multiplier", "quantity", "reading"]
COLUMNS = [*KEY[:-1], "published", "computed", "difference", "source"]
RELATIVE = ("inference_flops_absolute", "train_flops_absolute", "size_bytes")
"""Quantities with a unit: their difference is relative to the published number."""
QUANTITIES = (
    "inference_flops",
    "inference_flops_products",
    "inference_flops_absolute",
    "train_flops",
    "train_flops_as_run",
    "train_flops_absolute",
    "size_bytes",
    "width",
)


def joined(computed: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """All rows of both, matched by `KEY`; published rows of other tables and figures are left out.

    Args:
        computed: `KEY` and computed.
        published: `KEY`, published, source, status (empty, contradictory, rounded or not reproducible) and note.
    """
    ours = published[published["quantity"].isin(QUANTITIES)]
    table = _with_text(ours).merge(_with_text(computed), on=KEY, how="outer", sort=False)
    difference = table["computed"] - table["published"]
    relative = table["quantity"].isin(RELATIVE)
    table["difference"] = difference.where(~relative, difference / table["published"])
    return table.sort_values(["model", "quantity", *KEY[1:5], "reading"], kind="stable").reset_index(drop=True)


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """The committed table: `COLUMNS`, the reading and the note in words with the source."""
    source = [
        _words(*parts) for parts in zip(table["source"], table["reading"], table["status"], table["note"], strict=True)
    ]
    return table.assign(source=source)[COLUMNS]


def published_markdown(table: pd.DataFrame) -> str:
    """A markdown table of everything that is published, the largest difference first."""
    with_published = table[table["published"].notna()].copy()
    with_published["size"] = with_published["difference"].abs()
    with_published = with_published.sort_values("size", ascending=False, na_position="first", kind="stable")
    header = ["network", "method", "distribution", "sparsity", "length", "quantity"]
    body = (
        [
            row.model,
            row.method,
            row.distribution,
            f"{row.sparsity:g}",
            f"{row.training_multiplier:g}",
            row.quantity,
            f"{row.published:.5g}",
            _number(row.computed, ".5g"),
            _number(row.difference, "+.4f"),
            _words(row.source, row.reading, row.status, row.note),
        ]
        for row in with_published.itertuples()
    )
    return markdown([*header, "published", "counted", "difference", "source, reading, reason"], body)


def costs_markdown(computed: pd.DataFrame, model: str) -> str:
    """A markdown table of a network: inference, training of every method and size, by distribution and sparsity."""
    plain = computed[(computed["model"] == model) & computed["reading"].isna() & (computed["training_multiplier"] == 1)]
    value = plain.set_index(["distribution", "sparsity", "method", "quantity"])["computed"]
    is_erk = plain["distribution"] == "ERK"
    methods = plain.loc[is_erk & (plain["quantity"] == "train_flops"), "method"].unique()
    runs = plain[plain["method"] == methods[0]][["distribution", "sparsity"]].drop_duplicates()
    body = (
        [
            distribution,
            f"{sparsity:g}",
            f"{value[distribution, sparsity, methods[0], 'inference_flops']:.4f}",
            *(f"{value[distribution, sparsity, method, 'train_flops']:.4f}" for method in methods),
            f"{value[distribution, sparsity, 'any', 'size_bytes'] / 1e6:.3f}",
        ]
        for distribution, sparsity in runs.itertuples(index=False)
    )
    return markdown(["distribution", "sparsity", "inference", *(f"train {m}" for m in methods), "MB"], body)


def multipliers_in_words(table: pd.DataFrame) -> str:
    """How many of the published FLOPs multipliers are met, and where the paper contradicts itself."""
    multipliers = table[table["quantity"].isin(("train_flops", "inference_flops")) & table["published"].notna()]
    consistent = multipliers[multipliers["status"] == ""]
    met = consistent[consistent["difference"].abs() <= TOLERANCE]
    contradictory = multipliers.loc[multipliers["status"] == "contradictory", "source"].value_counts()
    contradictory = contradictory.sort_index().sort_values(ascending=False, kind="stable")
    where = ", ".join(f"{n} in {source}" for source, n in contradictory.items())
    return (
        f"Of the paper's FLOPs multipliers {len(met)} of {len(consistent)} consistent ones are met to {TOLERANCE:g}; "
        f"{contradictory.sum()} contradict another published number ({where})"
    )


def _with_text(table: pd.DataFrame) -> pd.DataFrame:
    words = [c for c in ("method", "distribution", "reading", "source", "status", "note") if c in table]
    return table.assign(**{c: table[c].fillna("") for c in words})


def _words(source: object, reading: str, status: object, note: object) -> str:
    named = f"reading: {reading}" if reading else ""
    return "; ".join(str(part) for part in (source, named, status, note) if isinstance(part, str) and part)


def _number(value: object, form: str) -> str:
    return "" if value is None or value != value else f"{value:{form}}"
