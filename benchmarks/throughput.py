"""Images a second of a training as the command line runs it, relative to the same network in a plain PyTorch loop.

    python benchmarks/throughput.py [--threads 1] [--rounds 7] [--steps 5] [--batch 64]

WRN-22-2 on random images of CIFAR-10's shapes, which cost what CIFAR-10's do. Four trainings take turns in one process:
a plain loop over float images, the same loop that standardises, crops and flips stored bytes, Lightning's Trainer with
`ImageClassifier` and `CIFAR10DataModule`, and that with RigL at 90 %. On a GPU if there is one.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import options_parser, with_spread
from rigl_lightning import RigL, SparseTrainingCallback, UpdateSchedule
from rigl_lightning.data import CIFAR10DataModule, TensorBatches
from rigl_lightning.data.augmentation import random_crop_and_flip, standardise
from rigl_lightning.models import WideResNet
from rigl_lightning.modules import ImageClassifier

N_IMAGES = 50_000  # an epoch as long as CIFAR-10's
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


class RandomImages(CIFAR10DataModule):
    """CIFAR-10's shapes and augmentation, random contents."""

    def prepare_data(self) -> None:
        pass

    def read_splits(self) -> None:
        images, labels = _stored(N_IMAGES)
        self.train_set = self.val_set = self.test_set = TensorBatches(images, labels)


class Stopwatch(pl.Callback):
    """Seconds of all training steps but the first, in which memory is laid out."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.start = _now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.seconds = _now() - self.start


def plain(steps: int, batch: int, augmented: bool) -> float:
    """Seconds of a loop as everybody writes it."""
    model = WideResNet().to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
    start = 0.0
    for step, (images, labels) in enumerate(_batches(steps + 1, batch, augmented)):
        if step == 1:
            start = _now()
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _now() - start


def lightning(steps: int, batch: int, sparse: bool) -> float:
    """Seconds of the same steps in Lightning's Trainer; with RigL an update comes once in the first step, untimed."""
    stopwatch = Stopwatch()
    rigl = RigL(sparsity=0.9, schedule=UpdateSchedule(interval=100))
    callbacks: list[pl.Callback] = [stopwatch, *([SparseTrainingCallback(rigl)] if sparse else [])]
    switched_off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = pl.Trainer(
        max_steps=steps + 1,
        limit_val_batches=0,
        callbacks=callbacks,
        devices=1,
        **dict.fromkeys(switched_off, False),  # type: ignore[arg-type]
    )
    trainer.fit(ImageClassifier(WideResNet(), 10, (3, 32, 32), weight_decay=5e-4), RandomImages(batch_size=batch))
    return stopwatch.seconds


def _batches(n: int, batch: int, augmented: bool) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = (tensor.to(DEVICE) for tensor in _stored(batch))
    for _ in range(n):
        yield random_crop_and_flip(standardise(images), 4) if augmented else images.float() / 255, labels


@cache
def _stored(n: int) -> tuple[Tensor, Tensor]:
    return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (n,))


def _now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = options_parser("Images a second of a training relative to a plain PyTorch loop.")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    size = (options.steps, options.batch)
    cases: dict[str, Callable[[], float]] = {
        "plain loop": partial(plain, *size, augmented=False),
        "plain loop, augmented": partial(plain, *size, augmented=True),
        "Lightning, dense": partial(lightning, *size, sparse=False),
        "Lightning, RigL 90 %": partial(lightning, *size, sparse=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, run in cases.items():
            rates[name].append(options.steps * options.batch / run())
    print(f"WRN-22-2, batch {options.batch}, {DEVICE}, {options.threads} thread(s), {options.rounds} rounds")
    print(f"{'':<24}{'images a second':>22}{'relative to the plain loop':>32}")
    for name, values in rates.items():
        ratios = [mine / plain for mine, plain in zip(values, rates["plain loop"], strict=True)]
        print(f"{name:<24}{with_spread(values):>22}{with_spread(ratios):>32}")


if __name__ == "__main__":
    main()
