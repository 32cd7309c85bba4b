"""Curves of single trainings: rows out of what runs logged, and a picture out of the rows.

    python paper/studies/training_curves.py collect BENCHMARK METHOD SPARSITY runs/.../metrics.csv
    python paper/studies/training_curves.py draw

Rows are in ``paper/results/curves.csv``, the picture is ``docs/pictures/curves.png``: two panels a benchmark, one line
a training. These are pilots (n = 1, as long as the axis says), no comparison of methods.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures.style import METHOD_COLOURS, new_figure
from paper.figures.words import caption
from paper.studies.row_files import as_csv
from rigl_lightning.base.files import replacing, write_text

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "paper" / "results" / "curves.csv"
PICTURE = ROOT / "docs" / "pictures" / "curves.png"
COLUMNS = ("benchmark", "method", "sparsity", "step", "quantity", "value")
QUANTITIES = {
    "train/loss": "training loss",
    "val/accuracy": "validation accuracy",
    "val/bits_per_character": "validation bits per character",
}
AVERAGED = 10  # training losses of so many neighbouring rows make one

Row = dict[str, str]


def rows_of(metrics: Path, benchmark: str, method: str, sparsity: str) -> list[Row]:
    """Rows of one training; its training losses, one batch each, are averaged over neighbours."""
    with metrics.open(encoding="utf-8", newline="") as lines:
        logged = list(csv.DictReader(lines))
    rows: list[Row] = []
    for column, quantity in QUANTITIES.items():
        points = [(int(row["step"]), float(row[column])) for row in logged if row.get(column)]
        for step, value in _averaged(points) if column == "train/loss" else points:
            row = (benchmark, method, sparsity, str(step), quantity, f"{value:.5g}")
            rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def _averaged(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    parts = [points[i : i + AVERAGED] for i in range(0, len(points), AVERAGED)]
    return [(part[-1][0], statistics.mean(value for _, value in part)) for part in parts]


def collect(metrics: Path, benchmark: str, method: str, sparsity: str, results: Path = RESULTS) -> int:
    """Put the rows of a training in the place of those it had; returns how many rows there are."""
    key = (benchmark, method, sparsity)
    kept = [row for row in read(results) if (row["benchmark"], row["method"], row["sparsity"]) != key]
    rows = kept + rows_of(metrics, *key)
    write_text(results, as_csv(rows, COLUMNS))
    return len(rows)


def read(results: Path = RESULTS) -> list[Row]:
    """All rows; none if there is no file yet."""
    if not results.is_file():
        return []
    with results.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def draw(rows: Sequence[Row]) -> Figure:
    """A row of panels for each benchmark: training loss, and what is validated."""
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    figure = new_figure(1, 1.9 * max(len(benchmarks), 1))
    figure.clear()  # the panels share no axes
    panels = figure.subplots(max(len(benchmarks), 1), 2, squeeze=False)
    for benchmark, (left, right) in zip(benchmarks, panels, strict=False):
        mine = [row for row in rows if row["benchmark"] == benchmark]
        validated = next((row["quantity"] for row in mine if row["quantity"] != "training loss"), "")
        for axes, quantity in ((left, "training loss"), (right, validated)):
            _panel(axes, [row for row in mine if row["quantity"] == quantity], benchmark, quantity)
    caption(figure, "one training a line (n = 1); training losses are means over neighbouring logged batches")
    return figure


def _panel(axes: Axes, rows: Sequence[Row], benchmark: str, quantity: str) -> None:
    for method, sparsity in dict.fromkeys((row["method"], row["sparsity"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["sparsity"]) == (method, sparsity)]
        steps, values = zip(*sorted((int(row["step"]), float(row["value"])) for row in mine), strict=True)
        label = f"{method} {float(sparsity):.0%}" if float(sparsity) else method
        axes.plot(steps, values, color=METHOD_COLOURS[method], lw=1.2, label=label, marker=".", ms=3)
    axes.set_title(benchmark, loc="left")
    axes.set_ylabel(quantity)
    axes.set_xlabel("step")
    if rows:
        axes.legend(frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Curves of single trainings.")
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    for name in ("benchmark", "method", "sparsity"):
        collecting.add_argument(name)
    collecting.add_argument("metrics", type=Path)
    commands.add_parser("draw")
    options = parser.parse_args()
    if options.command == "collect":
        print(f"{collect(options.metrics, options.benchmark, options.method, options.sparsity)} rows in {RESULTS}")
    else:
        PICTURE.parent.mkdir(exist_ok=True)
        with replacing(PICTURE) as stream:
            draw(read()).savefig(stream, format="png", dpi=110)
        print(f"{PICTURE}")


if __name__ == "__main__":
    main()
