"""Train dense, static and RigL networks on handwritten digits: a table and a picture in a minute.

    python examples/demo.py [--methods Dense Static RigL | all] [--seeds 3] [--epochs 30] [--sparsity 0.95] [--out DIR]

The data (1,797 images of 8 x 8 pixels, from scikit-learn) needs no download. The network is LeNet-300-100.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure

from rigl_lightning import (
    ACDC,
    DNW,
    DSR,
    MEST,
    SET,
    SETITOP,
    SNFS,
    SNIP,
    AnnealedTopK,
    CHTs,
    ConstantFanIn,
    DeepR,
    Dense,
    ErdosRenyi,
    GradualMagnitudePruning,
    GraNet,
    GraSP,
    OneShotMagnitude,
    RigL,
    RigLITOP,
    SparseAlgorithm,
    SparseTrainingCallback,
    Static,
    TopKAST,
    UpdateSchedule,
)
from rigl_lightning.base.files import replacing
from rigl_lightning.data import DigitsDataModule
from rigl_lightning.models import LeNet300100
from rigl_lightning.modules import ImageClassifier

SCHEDULE = UpdateSchedule(interval=30)  # the paper's 100 would leave a training of this length few updates
METHODS: dict[str, Callable[[float], SparseAlgorithm]] = {
    "Dense": lambda sparsity: Dense(),
    "Static": lambda sparsity: Static(sparsity),
    "RigL": lambda sparsity: RigL(sparsity, schedule=SCHEDULE),
    "SET": lambda sparsity: SET(sparsity, schedule=SCHEDULE),
    "SNFS": lambda sparsity: SNFS(sparsity, schedule=SCHEDULE),
    "SNIP": lambda sparsity: SNIP(sparsity),
    "GraSP": lambda sparsity: GraSP(sparsity),
    "OneShot": lambda sparsity: OneShotMagnitude(sparsity),
    "Pruning": lambda sparsity: GradualMagnitudePruning(sparsity, ErdosRenyi(), UpdateSchedule(30, begin=0.2)),
    "DSR": lambda sparsity: DSR(sparsity, schedule=SCHEDULE),
    "DeepR": lambda sparsity: DeepR(sparsity),
    "DNW": lambda sparsity: DNW(sparsity),
    "TopKAST": lambda sparsity: TopKAST(sparsity, max(2 * sparsity - 1, 0.0), schedule=UpdateSchedule(30, end=1.0)),
    "GraNet": lambda sparsity: GraNet(sparsity, sparsity / 2, schedule=UpdateSchedule(interval=30, end=1.0)),
    "ACDC": lambda sparsity: ACDC(sparsity, ErdosRenyi()),
    "AnnealedTopK": lambda sparsity: AnnealedTopK(sparsity, ErdosRenyi()),
    "MEST": lambda sparsity: MEST(sparsity, schedule=SCHEDULE),
    "CHTs": lambda sparsity: CHTs(sparsity, schedule=SCHEDULE),
    "SET-ITOP": lambda sparsity: SETITOP(sparsity, schedule=UpdateSchedule(interval=90, end=1.0)),
    "RigL-ITOP": lambda sparsity: RigLITOP(sparsity, schedule=UpdateSchedule(interval=90, end=1.0)),
    "SRigL": lambda sparsity: RigL(sparsity, schedule=SCHEDULE, structure=ConstantFanIn()),
}
DEFAULT_METHODS = ("Dense", "Static", "RigL")
COLOURS = {"Dense": "#222222", "Static": "#d95f02", "RigL": "#1b6ca8"}
FIRST_LAYER = "model.1.weight"  # (300, 64): a column is an input pixel


@dataclass
class Result:
    """What one training left."""

    accuracies: list[float]
    density: float
    train_flops: float
    first_masks: list[torch.Tensor]


class Recorder(pl.Callback):
    """Keeps the validation accuracy of every epoch, and the first layer's mask before and after training."""

    def __init__(self, sparse: SparseTrainingCallback) -> None:
        self.sparse = sparse
        self.accuracies: list[float] = []
        self.first_masks: list[torch.Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the mask that training starts with."""
        self._keep_mask()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the accuracy."""
        if not trainer.sanity_checking:
            self.accuracies.append(float(trainer.callback_metrics["val/accuracy"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the mask that training ends with."""
        self._keep_mask()

    def _keep_mask(self) -> None:
        if self.sparse.sparsifier is not None:
            self.first_masks.append(self.sparse.sparsifier.masks[FIRST_LAYER].clone())


def train(algorithm: SparseAlgorithm, seed: int, epochs: int) -> Result:
    """One training of LeNet-300-100 on the digits."""
    pl.seed_everything(seed, verbose=False)
    model = ImageClassifier(
        LeNet300100(64, 10), 10, (1, 8, 8), learning_rate=0.05, weight_decay=1e-4, milestones=[0.5, 0.75]
    )
    sparse = SparseTrainingCallback(algorithm)
    recorder = Recorder(sparse)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[sparse, recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, DigitsDataModule(batch_size=50))
    metrics = sparse.metrics()
    return Result(recorder.accuracies, metrics["sparse/density"], metrics["sparse/train_flops"], recorder.first_masks)


def table(results: dict[str, list[Result]]) -> str:
    """Accuracy (mean ± standard deviation over seeds), density and FLOPs of each method."""
    lines = [f"{'method':<10}{'accuracy':>16}{'density':>10}{'training FLOPs':>17}{'n':>4}"]
    for name, runs in results.items():
        mean, spread = _mean_and_spread([100 * run.accuracies[-1] for run in runs])
        accuracy = f"{mean:.2f} ± {spread:.2f} %" if len(runs) > 1 else f"{mean:.2f} %"
        lines.append(f"{name:<10}{accuracy:>16}{runs[0].density:>10.3f}{runs[0].train_flops:>16.3f}x{len(runs):>4}")
    return "\n".join(lines)


def picture(results: dict[str, list[Result]], sparsity: float) -> Figure:
    """Accuracy over epochs; and how many connections each input pixel has before and after RigL."""
    figure = plt.figure(figsize=(10, 3.4), layout="constrained")
    curves, before, after = figure.subplots(1, 3, width_ratios=[1.7, 1, 1])
    for name, runs in results.items():
        epochs = range(1, len(runs[0].accuracies) + 1)
        by_epoch = zip(*(run.accuracies for run in runs), strict=True)
        columns = [_mean_and_spread([100 * accuracy for accuracy in column]) for column in by_epoch]
        means = [mean for mean, _ in columns]
        low, high = [m - s for m, s in columns], [m + s for m, s in columns]
        (line,) = curves.plot(epochs, means, color=COLOURS.get(name), label=name)
        curves.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    curves.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(75, 100))
    curves.set_title(f"LeNet-300-100 on 8x8 digits, {sparsity:.0%} sparse (n = {len(runs)}, ± 1 s.d.)", fontsize=9)
    curves.legend(frameon=False, ncols=1 + len(results) // 8)
    moving = "RigL" if "RigL" in results else name
    counts = [
        torch.stack([run.first_masks[moment].float().sum(0).view(8, 8) for run in results[moving]]).mean(0)
        for moment in (0, -1)
    ]
    highest = max(float(count.max()) for count in counts)
    for axis, count, title in zip((before, after), counts, ("before training", f"after {moving}"), strict=True):
        image = axis.imshow(count, vmin=0, vmax=highest, cmap="viridis")
        axis.set_title(f"connections per pixel, {title}", fontsize=9)
        axis.set_axis_off()
    figure.colorbar(image, ax=(before, after), shrink=0.8)
    return figure


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "all"], default=list(DEFAULT_METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--out", type=Path, default=Path("demo_out"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the network is too small for more
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")

    methods = list(METHODS) if "all" in options.methods else options.methods
    algorithms = {name: METHODS[name](options.sparsity) for name in methods}
    results: dict[str, list[Result]] = {name: [] for name in algorithms}
    print(f"{len(algorithms)} methods x {options.seeds} seeds, {options.epochs} epochs each", flush=True)
    start = time.perf_counter()
    for name, algorithm in algorithms.items():
        for seed in range(options.seeds):
            results[name].append(train(algorithm, seed, options.epochs))
            last = results[name][-1].accuracies[-1]
            print(f"{time.perf_counter() - start:5.0f} s  {name}, seed {seed}: {100 * last:.2f} %", flush=True)
    print(f"\n{table(results)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "demo.png"
    with replacing(path) as stream:
        picture(results, options.sparsity).savefig(stream, format="png", dpi=150)
    print(f"\npicture: {path}")
    print("next: your own module in ten lines, in README.md; every method: --methods all")


if __name__ == "__main__":
    main()
