"""Where growth goes on a narrow network: the witness of the question in ``growth_scores.py``.

    python paper/studies/growth_concentration.py --data DIR [--seeds 10 11 12] [--sparsity 0.98]

WRN-10-1 of the small scale is trained as its runs are, and at every mask update the grown connections are counted by
output channel: the share that goes to the tenth of a layer's channels which gets most, and the share that goes to
channels without an active input before the update. One row an update; layers are summed.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from paper.experiments import SEEDS, Run
from paper.one_run import arguments
from paper.panels import NARROW_RULES, RESNET
from paper.studies.row_files import write_rows
from rigl_lightning.cli import main as rigl_lightning

RESULTS = Path(__file__).parents[1] / "results" / "growth_concentration.csv"
METHODS = ("RigL", "SET", *NARROW_RULES)
TOP = 0.1
"""Share of a layer's channels that counts as the few which get most."""


@dataclass(frozen=True)
class Growth:
    """Grown connections of one update, summed over the layers.

    Attributes:
        grown: All.
        to_top: Those in the tenth of each layer's channels that gets most.
        to_dead: Those in channels that had no active input.
    """

    grown: int = 0
    to_top: int = 0
    to_dead: int = 0

    def __add__(self, other: Growth) -> Growth:
        return Growth(self.grown + other.grown, self.to_top + other.to_top, self.to_dead + other.to_dead)


def of_layer(before: Tensor, after: Tensor) -> Growth:
    """Growth of one layer; channels are the first dimension of its mask.

    >>> before = torch.tensor([[True, False], [False, False]])
    >>> of_layer(before, torch.tensor([[False, True], [True, True]]))
    Growth(grown=3, to_top=2, to_dead=2)
    """
    grown = (after & ~before).flatten(1).sum(dim=1)
    dead = ~before.flatten(1).any(dim=1)
    n_top = max(1, round(TOP * len(grown)))
    return Growth(int(grown.sum()), int(grown.topk(n_top).values.sum()), int(grown[dead].sum()))


class GrowthWitness(pl.Callback):
    """Counts the growth of every mask update; it looks on and changes nothing.

    Args:
        file: CSV file that gets one row an update at the end of the training.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self._updates: list[dict[str, Any]] = []
        self._before: Mapping[str, Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Remember the masks before the step."""
        self._before = {name: mask.clone() for name, mask in _masks(trainer).items()}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count what the step has grown."""
        after = _masks(trainer)
        growth = sum((of_layer(self._before[name], after[name]) for name in after), Growth())
        if growth.grown:
            shares = {"share_to_top": growth.to_top / growth.grown, "share_to_dead": growth.to_dead / growth.grown}
            self._updates.append({"step": trainer.global_step, "grown": growth.grown, **shares})

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write the rows."""
        write_rows(self._updates, self.file)


def _masks(trainer: pl.Trainer) -> Mapping[str, Tensor]:
    from rigl_lightning import SparseTrainingCallback

    (callback,) = (c for c in trainer.callbacks if isinstance(c, SparseTrainingCallback))  # type: ignore[attr-defined]
    return callback.sparsifier.masks if callback.sparsifier is not None else {}


def rows_of(run: Run, data: Path) -> list[dict[str, Any]]:
    """Train it as the command line does; one row an update."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "growth.csv"
        witness = [
            "--trainer.callbacks+=paper.studies.growth_concentration.GrowthWitness",
            f"--trainer.callbacks.file={file}",
        ]
        rigl_lightning([*arguments(run, Path(folder) / run.name, data), *witness])
        with open(file, encoding="utf-8", newline="") as lines:
            updates = list(csv.DictReader(lines))
    return [{"method": run.method, "sparsity": run.sparsity, "seed": run.seed, **row} for row in updates]


def main() -> None:
    parser = argparse.ArgumentParser(description="Where growth goes, by output channel.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--sparsity", type=float, default=0.98)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for seed in options.seeds:
        for method in METHODS:
            table += rows_of(Run(RESNET, method, options.sparsity, "ERK", seed), options.data)
            write_rows(table, RESULTS)


if __name__ == "__main__":
    main()
