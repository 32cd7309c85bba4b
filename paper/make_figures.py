"""Draw the paper's figures from the committed results.

    python paper/make_figures.py [--strict] [--out paper/out]

Reads ``paper/results/*.csv`` only: no training, no GPU, no network. Says which figures have no rows yet; with
``--strict`` that is an error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python paper/make_figures.py`

import pandas as pd

from paper.figures import fig11_layer_sparsities

HERE = Path(__file__).parent
N_FIGURES = 11
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the paper's figures from the committed results.")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--strict", action="store_true", help="fail if a figure is missing")
    options = parser.parse_args()
    missing = make_figures(options.out)
    if missing:
        print(f"no rows yet for figures {', '.join(map(str, missing))}")
        sys.exit(1 if options.strict else 0)


if __name__ == "__main__":
    main()
