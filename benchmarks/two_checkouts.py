"""Masking and mask updates of this checkout relative to another one: is a change slower than what was before?

    git worktree add ../before COMMIT
    python benchmarks/two_checkouts.py ../before [--threads 1] [--rounds 7]

Each checkout has a process of its own, and they take turns, so that what else the machine does hits both. Of a few
repetitions a turn the fastest counts; shown is the median ratio of the turns. A step is what `Sparsifier` adds to an
ordinary one (gradients masked before, weights after the optimizer), an update all of RigL's mask update, a fit
200 whole steps of a Trainer with `SparseTrainingCallback` at batch size 1, where masking weighs most.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning import RigL, SparseTrainingCallback, Sparsifier, Static, UpdateSchedule, select_parameters
from rigl_lightning.models import WideResNet

REPETITIONS = {
    "LeNet-300-100": {"step": 40, "update": 10, "fit": 2},
    "WRN-22-2": {"step": 20, "update": 4},
    "ResNet-50": {"step": 3, "update": 1},
}


def lenet() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def resnet() -> nn.Module:
    import timm

    return timm.create_model("resnet50")


NETWORKS: dict[str, Callable[[], nn.Module]] = {"LeNet-300-100": lenet, "WRN-22-2": WideResNet, "ResNet-50": resnet}


class Case:
    """A network right before a step or a mask update."""

    def __init__(self, network: str, kind: str) -> None:
        model = NETWORKS[network]()
        self.kind = kind
        update = RigL(0.9, schedule=UpdateSchedule(1, 0, 10**9))
        self.sparsifier = Sparsifier(select_parameters(model), Static(0.9) if kind == "step" else update)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        self.gradients = [(parameter, torch.randn_like(parameter)) for parameter in model.parameters()]
        self.give_gradients()
        self.optimizer.step()
        for _ in range(3):
            self.seconds()

    def give_gradients(self) -> None:
        for parameter, gradient in self.gradients:
            parameter.grad = gradient

    def seconds(self) -> float:
        if self.kind == "update":  # which takes them
            self.give_gradients()
        start = time.perf_counter()
        self.sparsifier.before_step(self.optimizer)
        self.sparsifier.after_step(self.optimizer)
        return time.perf_counter() - start


class Fit:
    """A Trainer that trains a network of linear layers with the callback, no more than it has to around it."""

    def __init__(self, network: str, kind: str) -> None:
        self.build = NETWORKS[network]
        self.batches = torch.randn(200, 784)

    def seconds(self) -> float:
        module = Plain(self.build())
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[SparseTrainingCallback(RigL(0.9), compute="dense")],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        trainer.fit(module, DataLoader(TensorDataset(self.batches)))
        return time.perf_counter() - start


class Plain(pl.LightningModule):
    """A loss that costs next to nothing, and SGD."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.network(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


def serve(threads: int) -> None:
    """Answer lines of network, kind and repetitions with seconds."""
    torch.set_num_threads(threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    case, made = None, ""
    for line in sys.stdin:
        network, kind, repetitions = line.split()
        if case is None or made != f"{network} {kind}":
            case, made = (Fit if kind == "fit" else Case)(network, kind), f"{network} {kind}"
        print(min(case.seconds() for _ in range(int(repetitions))), flush=True)


def start(checkout: Path, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(checkout), "--threads", str(threads)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": str(threads)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=checkout.resolve())


def ask(process: subprocess.Popen[str], network: str, kind: str, repetitions: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{network} {kind} {repetitions}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description="Masking of this checkout relative to another one.")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.threads)
        return
    before, now = (start(path, options.threads) for path in (options.checkout, Path(__file__).parents[1]))
    print(f"{'':<24}{'before':>12}{'now':>12}{'now / before':>15}")
    for network, kinds in REPETITIONS.items():
        for kind, repetitions in kinds.items():
            turns = [[ask(p, network, kind, repetitions) for p in (before, now)] for _ in range(options.rounds + 1)][1:]
            ratio = statistics.median(after / first for first, after in turns)
            first, after = (1e6 * statistics.median(times) for times in zip(*turns, strict=True))
            print(f"{network + ', ' + kind:<24}{first:>9.0f} µs{after:>9.0f} µs{ratio:>15.2f}", flush=True)


if __name__ == "__main__":
    main()
