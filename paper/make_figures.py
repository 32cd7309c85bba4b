"""Draw the paper's figures and write its tables from the committed results.

    python paper/make_figures.py [--strict] [--out paper/out]

Reads ``paper/results/*.csv`` only: no training, no GPU, no network. Says which figures have no rows yet; with
``--strict`` that is an error. The FLOPs tables also go into ``docs/flops.md``, between its markers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python paper/make_figures.py`

import pandas as pd

from paper.figures import fig11_layer_sparsities
from paper.tables import flops

HERE = Path(__file__).parent
N_FIGURES = 11
FLOPS_PAGE = HERE.parent / "docs" / "flops.md"
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


def make_tables(out: Path, results: Path = HERE / "results") -> dict[str, str]:
    """Write ``table_flops.csv``; returns its parts in markdown, by the name of their markers in the page."""
    out.mkdir(parents=True, exist_ok=True)
    computed, published = (pd.read_csv(results / name) for name in (flops.COMPUTED, flops.PUBLISHED))
    table = flops.joined(computed, published)
    flops.rows(table).to_csv(out / "table_flops.csv", index=False, float_format="%.7g", lineterminator="\n")
    print(f"table of FLOPs: {out / 'table_flops.csv'}")
    networks = computed.loc[computed["distribution"] == "ERK", "model"].unique()
    return {"published": flops.published_markdown(table)} | {m: flops.costs_markdown(computed, m) for m in networks}


def with_parts(page: str, parts: dict[str, str]) -> str:
    """The page with everything between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` replaced by the part.

    Raises:
        ValueError: If the page lacks the markers of a part.
    """
    for name, text in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if begin not in page or end not in page:
            raise ValueError(f"Expected the markers {begin.strip()} and {end} in the page, found them not.")
        before, rest = page.split(begin, 1)
        page = before + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Draw the paper's figures and write its tables from the committed results."
    )
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--strict", action="store_true", help="fail if a figure is missing")
    options = parser.parse_args()
    parts = make_tables(options.out)
    FLOPS_PAGE.write_text(with_parts(FLOPS_PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
    missing = make_figures(options.out)
    if missing:
        print(f"no rows yet for figures {', '.join(map(str, missing))}")
        sys.exit(1 if options.strict else 0)


if __name__ == "__main__":
    main()
