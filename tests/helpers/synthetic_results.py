"""Made-up results of every declared run: for tests of figures and claims, and never a result."""

import csv
import random
from pathlib import Path

from paper.claims import claims, runs
from paper.experiments import CLAIM_SEEDS, SEEDS, Run
from paper.panels import RESNET, all_runs
from paper.protocols import PROTOCOLS
from paper.row_columns import COLUMNS

BONUS = {"Dense": 12, "Pruning": 6, "RigL": 4, "SNFS": 3.8, "SET": 3, "SNIP": 1, "Small-Dense": 2, "Big-Sparse": 14}
COST = {"SNFS": 0.5, "Pruning": 0.6, "Dense": 1.0, "Small-Dense": 1.0}
STEPS, DENSE = 400, 1000.0


def write_results(folder: Path, scale: str = "small", seeds=CLAIM_SEEDS) -> Path:
    """A file of results in which the methods have the paper's order."""
    generator = random.Random(0)
    file = folder / f"{scale}.csv"
    with open(file, "w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        declared = dict.fromkeys([*all_runs(scale, seeds), *runs(claims(scale), seeds)])
        writer.writerows(_row(run, generator) for run in declared)
    return file


def _row(run, generator):
    accuracy = 50 + BONUS.get(run.method, 0) - 60 * max(run.sparsity - 0.8, 0) + 2 * (run.multiplier / run.length)
    accuracy += 2 * (run.length - 1) + (run.distribution == "ERK") + generator.gauss(0, 0.3)
    dense = DENSE * (run.sparsity and 1 - run.sparsity if run.method == "Small-Dense" else 1)
    steps = STEPS * run.length
    return {
        **run.columns(),
        "val_accuracy": accuracy / 100,
        "val_bits": 5 - accuracy / 25,
        "val_loss": 3 - accuracy / 25,
        "train_loss": 3 - accuracy / 25,
        "final_train_loss": 3 - accuracy / 25,
        "density": 1 - run.sparsity,
        "exploration": 0.5,
        "steps": steps,
        "train_flops": steps * dense * 3 * COST.get(run.method, 1 - run.sparsity),
        "dense_train_flops": steps * dense * 3,
        "inference_flops": 1.0 if run.method in ("Dense", "Small-Dense") else 1 - run.sparsity,
        "dense_inference_flops": dense,
        "status": "done",
        "wall_s": 1.0,
        "device": "none",
        "commit": "none",
    }


def write_study(folder: Path, scale: str = "small", seeds=SEEDS) -> None:
    """Rows of figure 6: a barrier on the line of 1, on sparse curves of .5, on the dense one of .1; RigL ends lower."""
    protocol = PROTOCOLS[scale][RESNET]
    barriers = {"linear": 1.0, "sparse quadratic": 0.5, "sparse cubic": 0.5, "dense quadratic": 0.1}
    losses = {"Static": 1.0, "RigL": 0.8}
    landscape, escape = [], []
    for seed in seeds:
        run = Run(RESNET, "Pruning", protocol.sparsity, protocol.distribution, seed, scale)
        key = {"scale": scale, "config_hash": run.identity, "seed": seed}
        of_seed = 0.01 * (seed - seeds[0])
        for curve, barrier in barriers.items():
            heights = (1, 1 + (1 + of_seed) * barrier, 1)
            landscape += [{**key, "curve": curve, "t": t, "loss": h} for t, h in zip((0, 0.5, 1), heights, strict=True)]
        for method, loss in losses.items():
            row = {**key, "method": method, "final_accuracy": 0.5}
            escape += [{**row, "step": 10 * k, "train_loss": 1 + loss * (1 + of_seed) / k} for k in range(1, 31)]
    for name, rows in (("loss_landscape.csv", landscape), ("escape.csv", escape)):
        with open(folder / name, "w", newline="") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
