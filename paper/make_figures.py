"""Draw the paper's figures and write its tables from the committed results.

    python paper/make_figures.py [--strict] [--scale small] [--results paper/results] [--out paper/out]

Reads ``paper/results/*.csv`` only: no training, no GPU, no network. Names the points that no run has measured yet; with
``--strict`` a point without its three seeds is an error. Tables also go into ``docs/`` and ``paper/README.md``, between
the markers of a page.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from paper import claims, panels
from paper.experiments import SEEDS
from paper.figures import (
    fig1_drop_and_grow,
    fig2_resnet50,
    fig3_mobilenet,
    fig4_char_gru_and_wrn22,
    fig5_distributions_and_intervals,
    fig6_loss_landscape,
    fig7_distributions_and_momentum,
    fig8_sweeps_of_set_and_snfs,
    fig9_other_schedules,
    fig10_wrn22_loss,
    fig11_layer_sparsities,
)
from paper.figures.data import read
from paper.tables import figures, flops, lottery, methods, resnet50
from paper.tables.markdown import with_parts

HERE = Path(__file__).parent
NUMBERS = range(1, 12)
DOCS = HERE.parent / "docs"
PICTURES = DOCS / "pictures"
STUDIES: Mapping[int, ModuleType] = {1: fig1_drop_and_grow, 6: fig6_loss_landscape, 11: fig11_layer_sparsities}
"""Drawn from the rows of studies, in the files ``RESULTS``."""
TRAININGS: Mapping[int, ModuleType] = {
    2: fig2_resnet50,
    3: fig3_mobilenet,
    4: fig4_char_gru_and_wrn22,
    5: fig5_distributions_and_intervals,
    7: fig7_distributions_and_momentum,
    8: fig8_sweeps_of_set_and_snfs,
    9: fig9_other_schedules,
    10: fig10_wrn22_loss,
}
"""Drawn from runs: those of ``panels.py``."""
SHOWN = (2, 4, 6, 11)
"""Figures whose pictures the README shows."""
NAMED = 4
"""Points without a run that a line names before it says how many more there are."""


def make_figures(out: Path, results: Path = HERE / "results", scale: str = "small") -> dict[int, str]:
    """Draw every figure that has rows; returns what each incomplete one lacks, in words."""
    out.mkdir(parents=True, exist_ok=True)
    runs = read(results, scale) if (results / f"{scale}.csv").is_file() else pd.DataFrame()
    made = partial(_make, results=results, runs=runs, scale=scale, out=out)
    with ProcessPoolExecutor() as pool:
        lacks = dict(zip(NUMBERS, pool.map(made, NUMBERS), strict=True))
    for number, lack in lacks.items():
        path = out / f"fig{number}.pdf"
        if path.is_file():
            print(f"fig{number}: {path}" + (f"; lacks {lack}" if lack else ""))
    return {number: lack for number, lack in lacks.items() if lack}


def _make(number: int, results: Path, runs: pd.DataFrame, scale: str, out: Path) -> str:
    """Write one figure, if it has rows; what it lacks, in words."""
    figure, lack = _figure(number, results, runs, scale)
    paths = {ending: out / f"fig{number}.{ending}" for ending in ("pdf", "png")}
    if figure is None:
        for path in paths.values():
            path.unlink(missing_ok=True)
        return lack
    figure.draw_without_rendering()  # ticks depend on the layout and the layout on ticks: the second one is right
    for ending, path in paths.items():
        figure.savefig(path, dpi=200, metadata=_undated(ending))
        figure.set_layout_engine("none")  # a third one would cost as much as the rest of the picture
    plt.close(figure)
    return lack


def _undated(ending: str) -> dict[str, None]:
    return {"CreationDate": None} if ending == "pdf" else {}


def _figure(number: int, results: Path, runs: pd.DataFrame, scale: str) -> tuple[Figure | None, str]:
    if number in STUDIES:
        return _study_figure(STUDIES[number], results)
    n_runs, n_measured, points = missing(number, runs, scale)
    lack = (
        f"{n_runs - n_measured} of {n_runs} runs; points without any: {_named(points)}" if n_measured < n_runs else ""
    )
    return (TRAININGS[number].draw(runs) if n_measured else None), lack


def _study_figure(module: ModuleType, results: Path) -> tuple[Figure | None, str]:
    """The figure, if all its files are there, and what is not: files, or seeds where rows have any."""
    tables = {name: pd.read_csv(results / name) for name in module.RESULTS if (results / name).is_file()}
    lack = [name for name in module.RESULTS if name not in tables]
    n_seeds = {name: table["seed"].nunique() for name, table in tables.items() if "seed" in table}
    few = [f"{len(SEEDS) - n} of {len(SEEDS)} seeds of {name}" for name, n in n_seeds.items() if n < len(SEEDS)]
    return (None if lack else module.draw(*tables.values())), ", ".join(lack + few)


def missing(number: int, runs: pd.DataFrame, scale: str) -> tuple[int, int, list[str]]:
    """Declared runs of a figure, those of them that have rows, and the names of points with no row at all."""
    known = set(runs["config_hash"].dropna()) if len(runs) else set()
    measured: dict[str, int] = {}
    declared = panels.runs_of([panels.FIGURES[number]], scale, SEEDS)
    for run in declared:
        measured[run.point] = measured.get(run.point, 0) + (run.identity in known)
    return len(declared), sum(measured.values()), [point for point, n in measured.items() if n == 0]


def _named(points: list[str]) -> str:
    more = f" and {len(points) - NAMED} more" if len(points) > NAMED else ""
    return ", ".join(points[:NAMED]) + more if points else "none"


def make_tables(out: Path, results: Path = HERE / "results", scale: str = "small") -> dict[Path, dict[str, str]]:
    """Write ``table_*.csv``; returns the parts of documentation that they are, by page and name of their markers."""
    out.mkdir(parents=True, exist_ok=True)
    computed, published = (pd.read_csv(results / name) for name in (flops.COMPUTED, flops.PUBLISHED))
    table = flops.joined(computed, published)
    _write(flops.rows(table), out / "table_flops.csv")
    networks = computed.loc[computed["distribution"] == "ERK", "model"].unique()
    of_flops = {"published": flops.published_markdown(table)} | {m: flops.costs_markdown(computed, m) for m in networks}
    accuracies = methods.rows(pd.read_csv(results / methods.RESULTS))
    _write(accuracies, out / "table_methods.csv")
    runs = read(results, scale)
    of_resnet = resnet50.rows(runs)
    _write(of_resnet, out / "table_resnet50.csv")
    tickets = lottery.rows(runs)
    _write(tickets, out / "table_lottery.csv")
    tested = claims.table(runs, _study(results, claims.LANDSCAPE), _study(results, claims.ESCAPE))
    _write(tested, out / "table_claims.csv")
    of_claims = claims.as_markdown(tested)
    return {
        DOCS / "artifact.md": {"figures": _figures_table(runs, scale), "claims": of_claims},
        DOCS / "flops.md": of_flops,
        DOCS / "methods.md": {"accuracy": methods.as_markdown(accuracies)},
        HERE / "README.md": {
            "claims": of_claims,
            "resnet50": resnet50.as_markdown(of_resnet),
            "lottery": lottery.as_markdown(tickets),
        },
    }


def _figures_table(runs: pd.DataFrame, scale: str) -> str:
    measured = {number: missing(number, runs, scale)[:2] for number in TRAININGS}
    in_words = {number: f"{n} of {n_runs}" for number, (n_runs, n) in measured.items()}
    return figures.as_markdown({**STUDIES, **TRAININGS}, in_words)


def _study(results: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(results / name) if (results / name).is_file() else pd.DataFrame()


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.7g", lineterminator="\n")
    print(f"table: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draw the paper's figures and write its tables from the committed results."
    )
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--scale", default="small")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the rows")
    parser.add_argument("--strict", action="store_true", help="fail if a figure lacks a run")
    options = parser.parse_args()
    pages = make_tables(options.out, options.results, options.scale)
    are_committed = options.results == HERE / "results"  # the pages tell of these rows only
    if are_committed:
        for page, parts in pages.items():
            page.write_text(with_parts(page.read_text(encoding="utf-8"), parts), encoding="utf-8")
    lacking = make_figures(options.out, options.results, options.scale)
    if are_committed:
        for picture in (options.out / f"fig{number}.png" for number in SHOWN):
            if picture.is_file():
                shutil.copy(picture, PICTURES)
    for number, lack in lacking.items():
        print(f"figure {number} lacks {lack}")
    sys.exit(1 if lacking and options.strict else 0)


if __name__ == "__main__":
    main()
