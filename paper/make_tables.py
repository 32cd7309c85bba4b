"""The tables of ``paper/out`` and the parts of the documentation that are tables, from the committed rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from paper import study_claims
from paper.claims import claims
from paper.figures.catalogue import STUDIES, TRAININGS, missing
from paper.figures.data import COMMITTED, only_declared, read
from paper.judged import Judged, judged, measured, measured_again
from paper.tables import (
    adam_warm_up,
    cards,
    choosing,
    figures,
    flops,
    gpu_hours,
    growth_concentration,
    lenet,
    lottery,
    methods,
    resnet50,
    summary,
)
from paper.tables import claims as of_claims
from paper.tables.markdown import with_parts
from rigl_lightning.base.files import write_text

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
Pages = dict[Path, dict[str, str]]


def make_tables(
    out: Path, results: Path = COMMITTED, scale: str = "small", tested: pd.DataFrame | None = None
) -> Pages:
    """Write ``table_*.csv``; returns the parts of documentation that they are, by page and name of their markers.

    Args:
        out: Folder of the tables.
        results: Folder of the rows.
        scale: Of the runs.
        tested: What `claims_table` gives, if it is known already.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs = read(results, scale)
    # Of nobody's runs: published, computed without training, of a GPU, and of studies.
    computed, published = (pd.read_csv(COMMITTED / name) for name in (flops.COMPUTED, flops.PUBLISHED))
    steps, studied, grown = (
        pd.read_csv(COMMITTED / name) for name in (gpu_hours.STEPS, adam_warm_up.RESULTS, growth_concentration.RESULTS)
    )
    of_flops = flops.joined(computed, published)
    tables = {
        "flops": flops.rows(of_flops),
        "methods": methods.rows(runs),
        "resnet50": resnet50.rows(runs),
        "lottery": lottery.rows(runs),
        "lenet": lenet.rows(read(results, "paper"), published),
        "claims": claims_table(results, scale) if tested is None else tested,
    }
    for name, table in tables.items():
        _write(table, out / f"table_{name}.csv")
    hours = gpu_hours.rows(steps, computed)
    _write(hours, out / "table_gpu_hours.csv")
    networks = computed.loc[computed["distribution"] == "ERK", "model"].unique()
    costs = {model: flops.costs_markdown(computed, model) for model in networks}
    return {
        DOCS / "flops.md": {"published": flops.published_markdown(of_flops), **costs},
        DOCS / "methods_after_rigl.md": {"adam": adam_warm_up.as_markdown(studied)},
        DOCS / "artifact.md": {
            "figures": _figures_table(runs, scale),
            "at_length": summary.at_length_in_words(tables["lenet"]),
        },
        DOCS / "choosing.md": choosing.parts(runs),
        **_pages_of_runs(
            tables,
            {
                "growth": growth_concentration.as_markdown(grown),
                "gpu_hours": gpu_hours.as_markdown(hours, steps, computed),
            },
            flops.multipliers_in_words(of_flops),
        ),
    }


def _pages_of_runs(tables: dict[str, pd.DataFrame], of_studies: dict[str, str], multipliers: str) -> Pages:
    of_methods = methods.as_markdown(tables["methods"])
    cheapest = summary.frontier_in_words(tables["methods"])
    return {
        ROOT / "README.md": {
            "cheapest": cheapest,
            "claims": summary.claims_in_words(tables["claims"]),
        },
        DOCS / "methods.md": {"accuracy": of_methods, "cheapest": cheapest},
        HERE / "README.md": {
            "summary": summary.sentences(tables["claims"], multipliers),
            "exceptions": summary.exceptions(tables["claims"]),
            "claims": of_claims.as_markdown(tables["claims"]),
            "lenet": lenet.as_markdown(tables["lenet"]),
            "resnet50": resnet50.as_markdown(tables["resnet50"]),
            "lottery": lottery.as_markdown(tables["lottery"]),
            **of_studies,
        },
        **cards.measured(tables["methods"], DOCS),
    }


def claims_table(results: Path, scale: str) -> pd.DataFrame:
    """Every comparison of every claim; at the small scale also of the claims at the paper's, which have own rows."""
    scales = (scale, "paper") if scale == "small" else (scale,)
    return of_claims.rows({name: _judged(results, name) for name in scales})


def _judged(results: Path, scale: str) -> list[Judged]:
    rows = read(results, scale)
    found = measured(claims(scale), rows)
    if scale == "small":
        names = study_claims.LANDSCAPE, study_claims.ESCAPE
        found += study_claims.measured(*(_study(results / name, scale) for name in names))
    return judged(found, measured_again(claims(scale), rows))


def _study(file: Path, scale: str) -> pd.DataFrame:
    if not file.is_file():
        return pd.DataFrame()
    return only_declared(pd.read_csv(file, dtype={"config_hash": str}), scale)


def _figures_table(runs: pd.DataFrame, scale: str) -> str:
    counted = {number: missing(number, runs, scale)[:2] for number in TRAININGS}
    in_words = {number: f"{n} of {n_runs}" for number, (n_runs, n) in counted.items()}
    return figures.as_markdown({**STUDIES, **TRAININGS}, in_words)


def _write(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.7g", lineterminator="\n"))
    print(f"table: {path}")


def write_pages(pages: Pages) -> None:
    """Put the parts between the markers of their pages."""
    for page, parts in pages.items():
        write_text(page, with_parts(page.read_text(encoding="utf-8"), parts))
