"""What Adam does to grown connections, and what `adam_warm_up` changes: first steps, loss around updates, final loss.

    python paper/studies/adam_warm_up.py --text FILE [--seeds 10 11 12 13 14]

Two byte-level language models, a GRU with Adam and a small transformer with AdamW, are trained by RigL at 90 % with
``adam_warm_up`` None (the authors'), 0 (moments corrected by a connection's own age) and 10 (the step grows over ten
steps, too). The data order is that of the seed, so rows of one seed are pairs. One row a training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from paper.experiments import CLAIM_SEEDS
from paper.studies.row_files import write_rows
from rigl_lightning import RigL, Sparsifier, UpdateSchedule, select_parameters
from rigl_lightning.models import CharGRU

RESULTS = Path(__file__).parents[1] / "results" / "adam_warm_up.csv"
WARM_UPS = (None, 0, 10)
STEPS, LENGTH, BATCH, AROUND = 1600, 32, 8, 5
SCHEDULE = UpdateSchedule(interval=40, end=0.75)


class SmallTransformer(nn.Module):
    """Two pre-norm blocks of width 64 on bytes, causal."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(256, width), nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Logits (B, T, 256), and no state."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.blocks(self.embedding(tokens) + self.position, mask, is_causal=True)), None


@dataclass(frozen=True)
class Task:
    """A network, its optimizer, and what stays dense."""

    network: Callable[[], nn.Module]
    optimizer: Callable[[Any], Optimizer]
    exclude: Sequence[str] = ()


TASKS = {
    "char GRU": Task(lambda: CharGRU(embedding=64, hidden=96, readouts=(64,)), lambda p: torch.optim.Adam(p, 2e-3)),
    "transformer": Task(SmallTransformer, lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.01), ("head",)),
}


@dataclass
class Course:
    """What is noted of a training.

    Attributes:
        losses: Of each step, before it is made.
        first_steps: Of grown connections, in learning rates; a tensor an update and layer. Not of the update at step 0,
            before which Adam has made no step.
    """

    losses: list[float] = field(default_factory=list)
    first_steps: list[Tensor] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a text file of a megabyte or so")
    parser.add_argument("--seeds", type=int, nargs="+", default=CLAIM_SEEDS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = torch.frombuffer(bytearray(args.text.read_bytes()), dtype=torch.uint8).long()
    rows = []
    for seed, task, warm_up in product(args.seeds, TASKS, WARM_UPS):
        rows.append(row(task, warm_up, seed, data))
        write_rows(rows, args.results)


def row(task: str, warm_up: int | None, seed: int, data: Tensor) -> dict[str, Any]:
    """Train once; the last tenth of the text is for validation."""
    cut = len(data) * 9 // 10
    torch.manual_seed(seed)
    model = TASKS[task].network()
    course = train(model, TASKS[task], warm_up, seed, data[:cut])
    first = torch.cat(course.first_steps)
    updates = [step for step in SCHEDULE.resolve(STEPS).update_steps() if step >= AROUND]
    jumps = torch.tensor([jump(course.losses, step) for step in updates])
    return {
        "task": task,
        "adam_warm_up": "" if warm_up is None else warm_up,
        "seed": seed,
        "first_step_median": f"{first.median():.4f}",
        "first_step_p99": f"{first.quantile(0.99):.4f}",
        "jump_mean": f"{jumps.mean():.4f}",
        "jump_worst": f"{jumps.max():.4f}",
        "train_loss": f"{sum(course.losses[-50:]) / 50:.4f}",
        "val_loss": f"{validated(model, data[cut:]):.4f}",
        "steps": STEPS,
    }


def train(model: nn.Module, task: Task, warm_up: int | None, seed: int, data: Tensor) -> Course:
    """Train by RigL at 90 %, and note the course."""
    optimizer = task.optimizer(model.parameters())
    algorithm = RigL(0.9, schedule=SCHEDULE)
    parameters = select_parameters(model, exclude=task.exclude)
    sparsifier = Sparsifier(parameters, algorithm, STEPS, seed, adam_warm_up=warm_up)
    order, course = torch.Generator().manual_seed(seed), Course()
    grown: dict[str, Tensor] = {}
    for step in range(STEPS):
        loss = loss_of(model, batch(data, order))
        optimizer.zero_grad()
        loss.backward()
        course.losses.append(loss.item())
        masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        rate = optimizer.param_groups[0]["lr"]
        # A grown connection starts at zero, so that its weight after the next step is its first step.
        course.first_steps += [parameters[name].detach()[at].abs() / rate for name, at in grown.items()]
        grown = {name: sparsifier.masks[name] & ~mask for name, mask in masks.items()}
        grown = {name: at for name, at in grown.items() if step > 0 and bool(at.any())}
    return course


def batch(data: Tensor, order: torch.Generator) -> Tensor:
    """Windows at random places, (BATCH, LENGTH + 1)."""
    starts = torch.randint(len(data) - LENGTH - 1, (BATCH, 1), generator=order)
    return data[starts + torch.arange(LENGTH + 1)]


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats a byte."""
    logits, _ = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def jump(losses: Sequence[float], step: int) -> float:
    """How much higher the mean loss of the next steps is than that of the last, around an update.

    >>> jump([2.0] * 5 + [3.0] * 6, 4)
    1.0
    """
    before, after = losses[step - AROUND + 1 : step + 1], losses[step + 1 : step + 1 + AROUND]
    return sum(after) / len(after) - sum(before) / len(before)


@torch.no_grad()
def validated(model: nn.Module, data: Tensor) -> float:
    """Mean loss over the first 100 batches of the held-out text."""
    model.eval()
    whole = data[: 100 * BATCH * (LENGTH + 1)].view(100, BATCH, LENGTH + 1)
    return sum(loss_of(model, tokens).item() for tokens in whole) / len(whole)


if __name__ == "__main__":
    main()
