"""Make the rows of ``paper/results/<scale>.csv`` out of what runs left in their folders.

    python paper/collect.py [--runs runs] [--scale small]

Rows of runs that are not in the folder stay as they are, so that results can be collected from several machines.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for `python paper/collect.py`

import torch

from paper.launch import DONE

COLUMNS = (
    *("run", "scale", "benchmark", "method", "sparsity", "distribution", "seed"),
    *("val_accuracy", "val_loss", "train_loss", "density", "exploration"),
    *("steps", "train_flops", "dense_train_flops", "inference_flops"),
    *("status", "wall_s", "device", "commit", "config_hash"),
)
METRICS = {
    "val/accuracy": "val_accuracy",
    "val/loss": "val_loss",
    "train/loss": "train_loss",
    "sparse/density": "density",
    "sparse/exploration": "exploration",
    "sparse/inference_flops": "inference_flops",
}


def row_of(folder: Path) -> dict[str, Any]:
    """Row of a complete run.

    FLOPs of training are per sample, summed over the steps: as the run counted them, and those of the dense network
    for the same steps. Metrics are the last ones that were logged.
    """
    record = json.loads((folder / DONE).read_text(encoding="utf-8"))
    content = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
    sparse = content["callbacks"]["SparseTrainingCallback"]
    flops = {"steps": sparse["step"], "train_flops": sparse["flops_spent"], "dense_train_flops": sparse["flops_dense"]}
    return {**record, **flops, **_last_metrics(folder / "log" / "metrics.csv")}


def _last_metrics(file: Path) -> dict[str, str]:
    values = {}
    with open(file, encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            values.update({column: line[key] for key, column in METRICS.items() if line.get(key)})
    return values


def collect(runs: Path, results: Path) -> int:
    """Merge the rows of all complete runs under ``runs`` into the file ``results``; returns how many there are."""
    rows = {}
    if results.is_file():
        with open(results, encoding="utf-8", newline="") as lines:
            rows = {row["run"]: row for row in csv.DictReader(lines)}
    for done in sorted(runs.rglob(DONE)):
        row = row_of(done.parent)
        rows[row["run"]] = row
    with open(results, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[run] for run in sorted(rows))
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make rows of results out of what runs left.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--scale", default="small")
    options = parser.parse_args()
    results = ROOT / "paper" / "results" / f"{options.scale}.csv"
    print(f"{collect(options.runs / options.scale, results)} rows in {results}")


if __name__ == "__main__":
    main()
