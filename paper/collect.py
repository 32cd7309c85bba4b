"""Make the rows of ``paper/results/<scale>.csv`` out of what runs left in their folders.

    python paper/collect.py [--runs runs/paper] [--scale small] [--results paper/results]

Rows of runs that are not in the folder stay as they are, so that results can be collected from several machines.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paper.counted import remaining
from paper.one_run import LOG, RECORD, last_checkpoint, record_of
from paper.panels import MNIST
from paper.protocols import PROTOCOLS
from paper.row_columns import COLUMNS
from rigl_lightning.base.files import write_text
from rigl_lightning.trainer.csv_logger import METRICS_FILE, read_rows

ROOT = Path(__file__).parents[1]
METRICS = {
    "val/accuracy": "val_accuracy",
    "val/loss": "val_loss",
    "val/bits_per_character": "val_bits",
    "train/loss": "train_loss",
    "sparse/density": "density",
    "sparse/exploration": "exploration",
    "sparse/inference_flops": "inference_flops",
}
FINAL_SHARE = 0.1
"""Share of the training whose losses are averaged to the final one: that of a single batch says little."""


def row_of(folder: Path) -> dict[str, Any]:
    """Row of a run that has ended.

    FLOPs of training are per sample, summed over the steps: as the run counted them, and those of the dense network
    for the same steps. Metrics are the last ones that were logged. A run that failed has its settings and its status,
    and so has one whose last checkpoint, on which costs are counted, is older than its last metrics.
    """
    record = record_of(folder)
    if record is None:
        raise ValueError(f"{folder / RECORD} cannot be read. Remove it: the next launch then makes the run again.")
    if record["status"] != "done":
        return record
    metrics = folder / LOG / METRICS_FILE
    if "steps" not in record or not metrics.is_file():
        return {**record, "status": "done, but its counts or its metrics are gone"}
    try:
        rows = read_rows(metrics)
        logged = max(int(row["step"]) for row in rows)
        if logged > record["steps"]:
            early = f"done, but counted on a checkpoint of step {record['steps']:,} of {logged:,}"
            return {**record, "status": early}
        return {**record, **_remaining(folder, record), **_last_metrics(rows, record["steps"])}
    except ValueError as error:
        return {**record, "status": f"done, but {metrics.name} cannot be read: {error}"}


def _remaining(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What is left of LeNet-300-100 at the paper's length: runs that did not count it themselves left a checkpoint."""
    if (record["scale"], record["benchmark"]) != ("paper", MNIST) or "units" in record:
        return {}
    checkpoint = last_checkpoint(folder)
    return {} if checkpoint is None else remaining(checkpoint)


def _last_metrics(rows: Sequence[Mapping[str, str]], n_steps: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    losses = []
    for row in rows:
        values.update({column: row[key] for key, column in METRICS.items() if key in row})
        if "train/loss" in row and float(row["step"]) >= (1 - FINAL_SHARE) * n_steps:
            losses.append(float(row["train/loss"]))
    if losses:
        values["final_train_loss"] = sum(losses) / len(losses)
    return values


def collect(runs: Path, results: Path) -> int:
    """Merge the rows of all runs under ``runs`` that have ended into the file ``results``; returns how many there are.

    A failed run does not take the place of a row of the same run that is complete.
    """
    rows = _rows(results)
    for ended in sorted(runs.rglob(RECORD)):
        try:
            row = row_of(ended.parent)
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
        if row["status"] == "done" or rows.get(row["run"], row)["status"] != "done":
            rows[row["run"]] = row
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(sorted(rows.values(), key=lambda row: (row["benchmark"], row["run"])))
    write_text(results, text.getvalue())
    return len(rows)


def _rows(results: Path) -> dict[str, dict[str, Any]]:
    """By run; none if there is no file."""
    if not results.is_file():
        return {}
    with open(results, encoding="utf-8", newline="") as lines:
        return {row["run"]: row for row in csv.DictReader(lines)}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Make rows of results out of what runs left.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--scale", default="small", choices=sorted(PROTOCOLS))
    parser.add_argument("--results", type=Path, default=ROOT / "paper" / "results", help="folder of the file of rows")
    return parser


def main() -> None:
    options = parser().parse_args()
    runs, results = options.runs / options.scale, options.results / f"{options.scale}.csv"
    if not runs.is_dir():
        parser().error(f"Expected runs in {runs}, found no such folder. Set --runs to that of launch.py.")
    n_before = len(_rows(results))
    n_rows = collect(runs, results)
    print(f"{n_rows} rows in {results}, {n_rows - n_before} of them new")


if __name__ == "__main__":
    main()
