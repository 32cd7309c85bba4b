"""Draw the paper's figures and write its tables from the committed results.

    python paper/make_figures.py [--strict] [--scale small] [--results paper/results] [--out paper/out]

Reads ``paper/results/*.csv`` only: no training, no GPU, no network. A row counts if its run is declared today. Names
the points that no run has measured yet; with ``--strict`` a point without its seeds is an error. Tables also go into
``docs/`` and ``paper/README.md``, between the markers of a page.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from paper import panels
from paper.experiments import SEEDS
from paper.figures import claims_at_a_glance, narrow_networks, overview
from paper.figures.catalogue import STUDIES, TRAININGS, missing
from paper.figures.data import COMMITTED, of_runs, only_declared, own, read
from paper.figures.words import nothing
from paper.make_tables import claims_table, make_tables, write_pages
from paper.protocols import PROTOCOLS
from paper.tables import methods
from rigl_lightning.base.files import replacing

HERE = Path(__file__).parent
NUMBERS = range(1, 12)
CLAIMS, OVERVIEW, NARROW = "claims", "accuracy_over_flops", "narrow_networks"
PICTURES = HERE.parent / "docs" / "pictures"
SHOWN = (CLAIMS, OVERVIEW, NARROW, "fig2", "fig4", "fig6", "fig11")
"""Pictures that the documentation shows."""
NAMED = 4
"""Points without a run that a line names before it says how many more there are."""


def make_figures(
    out: Path, results: Path = COMMITTED, scale: str = "small", judged: pd.DataFrame | None = None
) -> dict[int, str]:
    """Draw every figure that has rows; returns what each incomplete one lacks, in words.

    Args:
        out: Folder of the pictures.
        results: Folder of the rows.
        scale: Of the runs.
        judged: Rows of `paper.tables.claims.rows`, if they are known already.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs = read(results, scale)
    judged = claims_table(results, scale) if judged is None else judged
    _write(claims_at_a_glance.draw(judged) if judged["n"].gt(0).any() else None, out / CLAIMS)
    _write(_overview(runs, scale), out / OVERVIEW)
    _write(_narrow(runs, judged, scale), out / NARROW)
    made = partial(_make, results=results, runs=runs, judged=judged, scale=scale, out=out)
    with ProcessPoolExecutor() as pool:
        lacks = dict(zip(NUMBERS, pool.map(made, NUMBERS), strict=True))
    for number, lack in lacks.items():
        path = out / f"fig{number}.pdf"
        if path.is_file():
            print(f"fig{number}: {path}" + (f"; lacks {lack}" if lack else ""))
    return {number: lack for number, lack in lacks.items() if lack}


def _overview(runs: pd.DataFrame, scale: str) -> Figure | None:
    """All methods on LeNet-300-100, if there are runs."""
    accuracies = methods.rows(runs)
    title = PROTOCOLS[scale][panels.MNIST].title
    return overview.draw(accuracies, title) if len(accuracies) else None


def _narrow(runs: pd.DataFrame, judged: pd.DataFrame, scale: str) -> Figure | None:
    """The question beyond the paper, if both sides of a comparison have runs."""
    of_question = of_runs(own(runs), panels.narrow_networks(scale, 0)) if scale == "small" else runs.head(0)
    return narrow_networks.draw(runs, judged) if of_question["method"].nunique() > 1 else None


def _make(number: int, results: Path, runs: pd.DataFrame, judged: pd.DataFrame, scale: str, out: Path) -> str:
    """Write one figure, if it has rows; what it lacks, in words."""
    if number in STUDIES:
        figure, lack = _study_figure(STUDIES[number], results, judged, scale)
    else:
        n_runs, n_measured, points = missing(number, runs, scale)
        without = f"; points without any: {_named(points)}" if points else ""
        lack = f"{n_runs - n_measured} of {n_runs} runs{without}" if n_measured < n_runs else ""
        figure = TRAININGS[number].draw(runs, judged) if n_measured else None
    _write(figure, out / f"fig{number}")
    return lack


def _write(figure: Figure | None, path: Path) -> None:
    """As PDF and PNG; a figure without rows takes the files of an earlier one away."""
    paths = {ending: path.with_suffix(f".{ending}") for ending in ("pdf", "png")}
    if figure is None:
        for file in paths.values():
            file.unlink(missing_ok=True)
        return
    figure.draw_without_rendering()  # ticks depend on the layout and the layout on ticks: the second one is right
    for ending, file in paths.items():
        with replacing(file) as stream:
            figure.savefig(stream, format=ending, dpi=200, metadata=_undated(ending))
        figure.set_layout_engine("none")  # a third one would cost as much as the rest of the picture
    plt.close(figure)


def _undated(ending: str) -> dict[str, None]:
    return {"CreationDate": None} if ending == "pdf" else {}


def _study_figure(module: ModuleType, results: Path, judged: pd.DataFrame, scale: str) -> tuple[Figure | None, str]:
    """The figure, if all its files have rows, and what is not there: files, or seeds where rows have any."""
    tables = {name: _study_rows(results / name, scale) for name in module.RESULTS}
    lack = [name for name, table in tables.items() if not len(table)]
    n_seeds = {name: table["seed"].nunique() for name, table in tables.items() if "seed" in table and len(table)}
    few = [f"{len(SEEDS) - n} of {len(SEEDS)} seeds of {name}" for name, n in n_seeds.items() if n < len(SEEDS)]
    return (None if lack else module.draw(*tables.values(), judged)), ", ".join(lack + few)


def _study_rows(file: Path, scale: str) -> pd.DataFrame:
    """Of a study whose rows have an identity those that are of a declared run; of the others all."""
    table: Any = pd.read_csv(file, dtype={"config_hash": str}) if file.is_file() else pd.DataFrame()
    return only_declared(table, scale) if "seed" in table else table


def _named(points: list[str]) -> str:
    more = f" and {len(points) - NAMED} more" if len(points) > NAMED else ""
    return ", ".join(points[:NAMED]) + more


def _show(picture: Path) -> None:
    """In the documentation; a picture without rows of today is not that of earlier ones."""
    with replacing(PICTURES / picture.name) as stream:
        if picture.is_file():
            stream.write(picture.read_bytes())
        else:
            nothing(f"{picture.stem}: no rows of today's runs yet").savefig(stream, format="png", dpi=100)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Draw the paper's figures and write its tables from the committed results."
    )
    parser.add_argument("--out", type=Path, help="folder of the pictures; paper/out for the committed small-scale rows")
    parser.add_argument("--scale", default="small", choices=sorted(PROTOCOLS))
    parser.add_argument("--results", type=Path, default=COMMITTED, help="folder of the rows")
    parser.add_argument("--strict", action="store_true", help="fail if a figure lacks a run")
    return parser


def main() -> None:
    options = parser().parse_args()
    are_committed = options.results.resolve() == COMMITTED and options.scale == "small"
    if options.out is None and not are_committed:
        parser().error("Expected --out FOLDER: paper/out holds what the committed rows of the small scale give.")
    out = HERE / "out" if options.out is None else options.out
    judged = claims_table(options.results, options.scale)
    pages = make_tables(out, options.results, options.scale, judged)
    lacking = make_figures(out, options.results, options.scale, judged)
    if are_committed:  # the pages tell of these rows only
        write_pages(pages)
        for name in SHOWN:
            _show(out / f"{name}.png")
    for number, lack in lacking.items():
        print(f"figure {number} lacks {lack}")
    sys.exit(1 if lacking and options.strict else 0)


if __name__ == "__main__":
    main()
