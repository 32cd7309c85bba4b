"""Draw the paper's figures and write its tables from the committed results.

    python paper/make_figures.py [--strict] [--out paper/out]

Reads ``paper/results/*.csv`` only: no training, no GPU, no network. Says which figures have no rows yet; with
``--strict`` that is an error. Tables also go into ``docs/``, between the markers of a page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python paper/make_figures.py`

import pandas as pd

from paper.figures import fig11_layer_sparsities
from paper.tables import flops, methods
from paper.tables.markdown import with_parts

HERE = Path(__file__).parent
N_FIGURES = 11
DOCS = HERE.parent / "docs"
FIGURES = {11: fig11_layer_sparsities}


def make_figures(out: Path, results: Path = HERE / "results") -> list[int]:
    """Draw every figure that has its rows; returns the numbers of those that have none."""
    out.mkdir(parents=True, exist_ok=True)
    missing = []
    for number in range(1, N_FIGURES + 1):
        module = FIGURES.get(number)
        if module is None or not (results / module.RESULTS).is_file():
            missing.append(number)
            continue
        figure = module.draw(pd.read_csv(results / module.RESULTS))
        for ending in ("pdf", "png"):
            figure.savefig(out / f"fig{number}.{ending}", dpi=200)
        print(f"fig{number}: {out / f'fig{number}.pdf'}")
    return missing


def make_tables(out: Path, results: Path = HERE / "results") -> dict[Path, dict[str, str]]:
    """Write ``table_*.csv``; returns the parts of documentation that they are, by page and name of their markers."""
    out.mkdir(parents=True, exist_ok=True)
    computed, published = (pd.read_csv(results / name) for name in (flops.COMPUTED, flops.PUBLISHED))
    table = flops.joined(computed, published)
    _write(flops.rows(table), out / "table_flops.csv")
    networks = computed.loc[computed["distribution"] == "ERK", "model"].unique()
    of_flops = {"published": flops.published_markdown(table)} | {m: flops.costs_markdown(computed, m) for m in networks}
    accuracies = methods.rows(pd.read_csv(results / methods.RESULTS))
    _write(accuracies, out / "table_methods.csv")
    return {DOCS / "flops.md": of_flops, DOCS / "methods.md": {"accuracy": methods.as_markdown(accuracies)}}


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.7g", lineterminator="\n")
    print(f"table: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draw the paper's figures and write its tables from the committed results."
    )
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--strict", action="store_true", help="fail if a figure is missing")
    options = parser.parse_args()
    for page, parts in make_tables(options.out).items():
        page.write_text(with_parts(page.read_text(encoding="utf-8"), parts), encoding="utf-8")
    missing = make_figures(options.out)
    if missing:
        print(f"no rows yet for figures {', '.join(map(str, missing))}")
        sys.exit(1 if options.strict else 0)


if __name__ == "__main__":
    main()
