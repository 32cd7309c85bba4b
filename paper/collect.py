"""Make the rows of ``paper/results/<scale>.csv`` out of what runs left in their folders.

    python paper/collect.py [--runs runs/paper] [--scale small] [--results paper/results]

Rows of runs that are not in the folder stay as they are, so that results can be collected from several machines.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from paper.one_run import LOG, RECORD, record_of, write_whole
from rigl_lightning.trainer.csv_logger import METRICS_FILE, read_rows

ROOT = Path(__file__).parents[1]
COLUMNS = (
    *("run", "scale", "benchmark", "method", "sparsity", "distribution"),
    *("multiplier", "delta_t", "alpha", "decay", "snfs_momentum", "seed"),
    *("val_accuracy", "val_loss", "val_bits", "train_loss", "final_train_loss", "density", "exploration"),
    *("steps", "train_flops", "dense_train_flops", "inference_flops", "dense_inference_flops"),
    *("status", "wall_s", "device", "commit", "config_hash"),
)
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
    for the same steps. Metrics are the last ones that were logged. A run that failed has its settings and its status.
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
        return {**record, **_last_metrics(metrics, record["steps"])}
    except ValueError as error:
        return {**record, "status": f"done, but {metrics.name} cannot be read: {error}"}


def _last_metrics(file: Path, n_steps: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    losses = []
    for row in read_rows(file):
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
    rows = {}
    if results.is_file():
        with open(results, encoding="utf-8", newline="") as lines:
            rows = {row["run"]: row for row in csv.DictReader(lines)}
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
    write_whole(results, text.getvalue())
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make rows of results out of what runs left.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--scale", default="small")
    parser.add_argument("--results", type=Path, default=ROOT / "paper" / "results", help="folder of the file of rows")
    options = parser.parse_args()
    results = options.results / f"{options.scale}.csv"
    print(f"{collect(options.runs / options.scale, results)} rows in {results}")


if __name__ == "__main__":
    main()
