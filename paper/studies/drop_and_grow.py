"""One mask update of a real training, connection by connection: the rows of figure 1.

    python paper/studies/drop_and_grow.py

RigL on the 8x8 digits with a LeNet of 20 and 12 units, 80 % sparse; of its second layer, small enough to be seen whole,
the initial random mask, the mask before an update in mid-training, the connections dropped and grown, and the mask
after.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from paper.studies.row_files import write_rows
from rigl_lightning import RigL, Sparsifier, UpdateSchedule, select_parameters
from rigl_lightning.data import DigitsDataModule

RESULTS = Path(__file__).parents[1] / "results" / "drop_and_grow.csv"
UNITS = (20, 12)
LAYER = "3.weight"
SPARSITY, INTERVAL, STEPS, BATCH = 0.8, 30, 300, 50
UPDATE = 60
"""The step whose update is shown."""


def rows() -> list[dict[str, object]]:
    """One row a connection of the layer: its place; whether it is active at first, before, dropped, grown, after."""
    initial, before, after = _masks_around_update()
    return [
        {
            "step": UPDATE,
            "layer": LAYER.removesuffix(".weight"),
            "output": output,
            "input": source,
            "initial": int(initial[output, source]),
            "before": int(before[output, source]),
            "dropped": int(before[output, source] & ~after[output, source]),
            "grown": int(after[output, source] & ~before[output, source]),
            "after": int(after[output, source]),
        }
        for output in range(before.shape[0])
        for source in range(before.shape[1])
    ]


def _masks_around_update() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, UNITS[0]), nn.ReLU(), nn.Linear(*UNITS), nn.ReLU(), nn.Linear(UNITS[1], 10)
    )
    algorithm = RigL(SPARSITY, schedule=UpdateSchedule(interval=INTERVAL))
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=STEPS)
    initial = sparsifier.masks[LAYER].clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = DigitsDataModule(batch_size=BATCH)
    data.setup("fit")
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATE + 1):
        before = sparsifier.masks[LAYER].clone()
        chosen = torch.randint(len(data.train_set), (BATCH,), generator=generator)
        images, labels = data.train_set.__getitems__(chosen.tolist())
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    return initial, before, sparsifier.masks[LAYER].clone()


def main() -> None:
    write_rows(rows(), RESULTS)


if __name__ == "__main__":
    main()
