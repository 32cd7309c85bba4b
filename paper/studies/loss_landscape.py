"""Figure 6: the training loss between two sparse solutions, and whether RigL leaves the static one.

    python paper/studies/loss_landscape.py [--data DIR] [--seeds 10 11 12] [--scale small]

For each seed: gradual pruning finds a solution and its masks; the same masks, drawn new weights, are trained static, so
that both ends lie in one sparse subspace (Evci et al. 2019, arXiv 1906.10732). Between them: the line, and Bezier
curves whose control points are trained to minimise the expected loss on the curve (Garipov et al. 2018, arXiv
1802.10026): quadratic and cubic within the sparse subspace, quadratic through the dense space. Batch-norm statistics
are computed anew at every point. Then Static and RigL are both started from the static solution, the whole schedule
again.

Writes ``paper/results/loss_landscape.csv`` and ``escape.csv``; seeds that are there are not computed again. The column
``config_hash`` is the identity of the declared pruning run with the same settings (`run_of`): the figure draws rows of
today's protocol only.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from paper.experiments import SEEDS, Run, configured_updates
from paper.protocols import PROTOCOLS, Protocol
from paper.studies.plain_training import Images, Masks, Trained, accuracy_on_test, read_images, train
from paper.studies.row_files import as_csv
from rigl_lightning import ErdosRenyi, GradualMagnitudePruning, RigL, Static, Uniform, UpdateSchedule
from rigl_lightning.base.files import write_text
from rigl_lightning.modules.batch_norm import reestimate_batch_norm
from rigl_lightning.sparsity.algorithms.base import GeneratorOf
from rigl_lightning.sparsity.distributions import Distribution, Shapes

BENCHMARK = "imagenet_resnet50"
RESULTS = Path(__file__).parents[1] / "results"
LANDSCAPE, ESCAPE = RESULTS / "loss_landscape.csv", RESULTS / "escape.csv"
N_POINTS = 21
CURVE_STEPS, CURVE_BATCH, CURVE_RATE = 400, 64, 0.05
N_STATISTICS, N_LOSS, EVALUATION_BATCH = 8, 16, 256
LOSS_EVERY = 10

Point = dict[str, Tensor]


@dataclass(frozen=True)
class StaticFrom(Static):
    """Static, with given masks."""

    masks: Masks = field(default_factory=dict)

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Those given."""
        return {name: mask.clone() for name, mask in self.masks.items()}


@dataclass(frozen=True)
class RigLFrom(RigL):
    """RigL, with given masks to begin with."""

    masks: Masks = field(default_factory=dict)

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Those given."""
        return {name: mask.clone() for name, mask in self.masks.items()}


def bezier(points: Sequence[Point], t: float | Tensor) -> Point:
    """The point at ``t`` in [0, 1] of the Bezier curve with these control points; two of them are a line."""
    n = len(points) - 1
    weights = [comb(n, k) * (1 - t) ** (n - k) * t**k for k in range(n + 1)]
    return {name: sum(w * p[name] for w, p in zip(weights, points, strict=True)) for name in points[0]}  # type: ignore[misc]


def trained_curve(
    model: nn.Module, ends: tuple[Point, Point], n_inner: int, masks: Masks | None, images: Images, seed: int
) -> list[Point]:
    """Control points of a curve between two solutions, the inner ones trained by SGD on the loss at random points.

    Args:
        model: Network whose parameters the points stand for.
        ends: Solutions at t = 0 and 1; they stay as they are.
        n_inner: Inner control points: 1 for a quadratic curve, 2 for a cubic.
        masks: Of the subspace that the curve stays in; None for the whole space.
        images: Training data.
        seed: Of batches and of t.
    """
    line = [bezier(ends, (k + 1) / (n_inner + 1)) for k in range(n_inner)]
    inner = [{name: value.clone().requires_grad_() for name, value in point.items()} for point in line]
    parameters = [value for point in inner for value in point.values()]
    optimizer = torch.optim.SGD(parameters, lr=CURVE_RATE, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CURVE_STEPS)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for inputs, labels in images.batches(CURVE_STEPS, CURVE_BATCH, generator):
        point = bezier([ends[0], *inner, ends[1]], torch.rand((), generator=generator))
        optimizer.zero_grad()
        F.cross_entropy(functional_call(model, point, (inputs,)), labels).backward()
        if masks is not None:
            for control in inner:
                _mask_gradients(control, masks)
        optimizer.step()
        scheduler.step()
    return [ends[0], *({name: value.detach() for name, value in point.items()} for point in inner), ends[1]]


def _mask_gradients(point: Point, masks: Masks) -> None:
    for name, mask in masks.items():
        gradient = point[name].grad
        if gradient is not None:
            gradient.mul_(mask)


def loss_at(model: nn.Module, point: Point, images: Images) -> float:
    """Training loss of the network at a point, with its own batch-norm statistics; the same images for all points."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(point[name])
    of_statistics, of_loss = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    reestimate_batch_norm(model, images.batches(N_STATISTICS, EVALUATION_BATCH, of_statistics, augment=False))
    model.eval()
    with torch.no_grad():
        batches = images.batches(N_LOSS, EVALUATION_BATCH, of_loss, augment=False)
        losses = [F.cross_entropy(model(inputs), labels).item() for inputs, labels in batches]
    return sum(losses) / len(losses)


def point_of(model: nn.Module) -> Point:
    """All parameters of a network, those of its norms included."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def run_of(scale: str, seed: int) -> Run:
    """The declared run that the pruned solution repeats."""
    protocol = PROTOCOLS[scale][BENCHMARK]
    return Run(BENCHMARK, "Pruning", protocol.sparsity, protocol.distribution, seed, scale)


def distribution_of(protocol: Protocol) -> Distribution:
    """The protocol's own, uniform or ERK."""
    return Uniform(first_layer_dense=protocol.first_layer_dense) if protocol.distribution == "uniform" else ErdosRenyi()


def solutions(protocol: Protocol, images: Images, seed: int) -> tuple[Trained, Trained]:
    """A pruned solution, and a static one on its masks from other initial weights."""
    begin, end, interval = protocol.ramp
    ramp = UpdateSchedule(interval=interval, begin=begin, end=end)
    distribution = distribution_of(protocol)
    pruning = GradualMagnitudePruning(protocol.sparsity, distribution, ramp)
    pruned = train(protocol, images, pruning, seed)
    static = StaticFrom(protocol.sparsity, distribution, masks=pruned.masks)
    return pruned, train(protocol, images, static, seed + 1000)


def landscape_rows(images: Images, ends: tuple[Trained, Trained], seed: int) -> list[dict[str, Any]]:
    """Loss at points of every curve."""
    pruned, static = ends
    points = point_of(pruned.model), point_of(static.model)
    model = pruned.model
    curves = {
        "linear": list(points),
        "sparse quadratic": trained_curve(model, points, 1, pruned.masks, images, seed),
        "sparse cubic": trained_curve(model, points, 2, pruned.masks, images, seed),
        "dense quadratic": trained_curve(model, points, 1, None, images, seed),
    }
    rows = []
    for name, control in curves.items():
        for k in range(N_POINTS):
            t = k / (N_POINTS - 1)
            loss = loss_at(model, bezier(control, t), images)
            rows.append({"seed": seed, "curve": name, "t": f"{t:.4g}", "loss": f"{loss:.6g}"})
    return rows


def escape_rows(protocol: Protocol, images: Images, static: Trained, seed: int) -> list[dict[str, Any]]:
    """Training loss over steps of Static and RigL from the static solution, and their final accuracies."""
    interval, fraction = configured_updates(protocol)
    end = protocol.settings["sparse"]["algorithm"]["init_args"]["schedule"]["end"]
    distribution = distribution_of(protocol)
    schedule = UpdateSchedule(interval=interval, end=end)
    algorithms = {
        "Static": StaticFrom(protocol.sparsity, distribution, masks=static.masks),
        "RigL": RigLFrom(protocol.sparsity, distribution, schedule, fraction, masks=static.masks),
    }
    state: Mapping[str, Any] = static.model.state_dict()
    rows = []
    for name, algorithm in algorithms.items():
        again = train(protocol, images, algorithm, seed + 2000, start=lambda model: _load(model, state))
        accuracy = accuracy_on_test(again.model, images)
        for step in range(0, len(again.losses), LOSS_EVERY):
            part = again.losses[step : step + LOSS_EVERY]
            row = {"seed": seed, "method": name, "step": step + len(part), "train_loss": f"{sum(part) / len(part):.6g}"}
            rows.append({**row, "final_accuracy": f"{accuracy:.6g}"})
    return rows


def _load(model: nn.Module, state: Mapping[str, Any]) -> None:
    model.load_state_dict(state)


def identities_in(file: Path) -> set[str]:
    """Those of the runs that have rows."""
    if not file.is_file():
        return set()
    with open(file, encoding="utf-8", newline="") as lines:
        return {row.get("config_hash", "") for row in csv.DictReader(lines)}


def append(file: Path, rows: Sequence[Mapping[str, Any]], **columns: str) -> None:
    """Add rows to a file, all or none; it is made if need be."""
    text = as_csv(({**columns, **row} for row in rows), [*columns, *rows[0]])
    if file.is_file():
        with open(file, encoding="utf-8", newline="") as lines:
            text = lines.read() + text.partition("\n")[2]  # without the header
    write_text(file, text)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Loss landscape and escape: the rows of figure 6.")
    parser.add_argument("--data", type=Path, default=RESULTS.parents[1] / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--scale", default="small")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    protocol = PROTOCOLS[options.scale][BENCHMARK]
    landscape, escape = options.out / LANDSCAPE.name, options.out / ESCAPE.name
    try:
        images = read_images(protocol, options.data)
    except (ValueError, FileNotFoundError) as error:
        parser().error(str(error))
    for seed in options.seeds:
        _study(protocol, images, run_of(options.scale, seed), landscape, escape)


def _study(protocol: Protocol, images: Images, run: Run, landscape: Path, escape: Path) -> None:
    """The rows of one seed that are not there."""
    columns = {"scale": run.scale, "config_hash": run.identity}
    if run.identity in identities_in(landscape) & identities_in(escape):
        return
    ends = solutions(protocol, images, run.seed)
    accuracies = [round(accuracy_on_test(end.model, images), 4) for end in ends]
    print(f"seed {run.seed}: test accuracies {accuracies}", flush=True)
    if run.identity not in identities_in(escape):
        append(escape, escape_rows(protocol, images, ends[1], run.seed), **columns)
    if run.identity not in identities_in(landscape):
        append(landscape, landscape_rows(images, ends, run.seed), **columns)
    print(f"seed {run.seed}: done", flush=True)


if __name__ == "__main__":
    main()
