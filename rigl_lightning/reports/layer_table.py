"""Reporting: what a user is shown of a sparse network, as text and as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rigl_lightning.sparsity.algorithms import GradualMagnitudePruning, SparseAlgorithm, describe
from rigl_lightning.sparsity.costs.flops import training_flops
from rigl_lightning.sparsity.costs.training import planned_inference_flops, planned_training_flops
from rigl_lightning.sparsity.distributions import Shapes, active_counts
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.selection import count_active
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.statistics import dead_units, hamming_distance, survival

FEW_UPDATES = 4
"""Fewer mask updates than this hardly move connections; the table then says how to have more."""


@dataclass
class TrainingCost:
    """Training FLOPs so far, relative to the dense network's for the same steps.

    >>> cost = TrainingCost()
    >>> cost.add(forward=1.0, weight_gradient=10.0, dense_forward=10.0)
    >>> cost.relative  # (2 · 1 + 10) / 30
    0.4
    """

    spent: float = 0.0
    dense: float = 0.0

    def add(self, forward: float, weight_gradient: float, dense_forward: float) -> None:
        """Count one step; the arguments are those of `training_flops`, for the sparse and for the dense network."""
        self.spent += training_flops(forward, weight_gradient)
        self.dense += training_flops(dense_forward, dense_forward)

    @property
    def relative(self) -> float:
        """Fraction of the dense network's FLOPs; 1 before the first step."""
        return self.spent / self.dense if self.dense else 1.0


def mask_metrics(sparsifier: Sparsifier, by_layer: bool = False) -> dict[str, float]:
    """What is logged of the masks as they are now.

    Args:
        sparsifier: Of any algorithm.
        by_layer: Also ``density/<layer>``, ``survival/<layer>`` and ``dead_units/<layer>``.

    Returns:
        ``density``; ``churn``, ``drop_fraction`` and ``blind_growth`` of the last update (see `MaskUpdate`);
        ``exploration``: fraction of all connections that were ever active; ``survival``: fraction of the first
        connections that are active; ``hamming_distance``: fraction of all connections that are not as at first;
        ``dead_units``: number of units without an incoming connection.
    """
    masks, update = sparsifier.masks, sparsifier.last_update
    first = {name: mask.to(masks[name].device) for name, mask in sparsifier.first_masks().items()}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    survivals = {name: survival(first[name], mask) for name, mask in masks.items()}
    distances = {name: hamming_distance(first[name], mask) for name, mask in masks.items()}
    dead = {name: dead_units(mask) for name, mask in masks.items()}
    metrics = {
        "density": sparsifier.total_density(),
        "churn": update.churn if update else 0.0,
        "drop_fraction": update.drop_fraction if update else 0.0,
        "blind_growth": update.blind_growth if update else 0.0,
        "exploration": sparsifier.exploration(),
        "survival": _mean(survivals, {name: count_active(mask) for name, mask in first.items()}),
        "hamming_distance": _mean(distances, sizes),
        "dead_units": float(sum(dead.values())),
    }
    if by_layer:
        layers: dict[str, Mapping[str, float]] = {"density": sparsifier.density(), "survival": survivals}
        for key, values in {**layers, "dead_units": dead}.items():
            metrics.update({f"{key}/{name}": float(value) for name, value in values.items()})
    return metrics


def _mean(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    return sum(values[name] * weights[name] for name in values) / max(sum(weights.values()), 1)


def layer_table(
    algorithm: SparseAlgorithm,
    shapes: Shapes,
    total_steps: int | None = None,
    dense_flops: Mapping[str, float] | None = None,
) -> str:
    """Table of every sparse layer: shape, connections, active ones, sparsity, and forward FLOPs if they are known.

    Shows the network that comes out at the end: for methods that start dense, the sparsity they go to. Where the
    training decides what each layer gets, it says so, and shows the shares of the distribution.

    Args:
        algorithm: Resolved.
        shapes: Shape of each sparse layer by name.
        total_steps: Length of training, for the costs.
        dense_flops: Forward FLOPs of each weight, per sample, when dense.
    """
    active = active_counts(shapes, algorithm.final_sparsities(shapes))
    rows = [
        (
            "layer",
            "shape",
            "connections",
            "active",
            "sparsity",
            *(("dense MFLOPs", "MFLOPs") if dense_flops else ()),
        )
    ]
    for name, shape in shapes.items():
        size = math.prod(shape)
        flops = (dense_flops or {}).get(name, 0.0)
        costs = (f"{flops / 1e6:,.3f}", f"{flops * active[name] / size / 1e6:,.3f}") if dense_flops else ()
        text_shape = "x".join(map(str, shape))
        rows.append((name, text_shape, f"{size:,}", f"{active[name]:,}", f"{1 - active[name] / size:.4f}", *costs))
    total, kept = sum(map(math.prod, shapes.values())), sum(active.values())
    rows.append(("total", "", f"{total:,}", f"{kept:,}", f"{1 - kept / total:.4f}", *([""] * (len(rows[0]) - 5))))
    lines = [describe(algorithm), _schedule_line(algorithm), *_layers_line(algorithm), *_aligned(rows)]
    if dense_flops:
        lines.append(_cost_line(algorithm, shapes, total_steps, dense_flops))
    return "\n".join(lines)


def _schedule_line(algorithm: SparseAlgorithm) -> str:
    steps = algorithm.update_steps()
    if not steps:
        return "masks stay as they are"
    shown = [*steps[:3], "...", steps[-1]] if len(steps) > 4 else [*steps]
    plural = "s" if len(steps) > 1 else ""
    hint = _few_updates_hint(algorithm, len(steps))
    return f"{len(steps)} mask update{plural}, at step{plural} {', '.join(map(str, shown))}{hint}"


def _few_updates_hint(algorithm: SparseAlgorithm, n_updates: int) -> str:
    schedule = algorithm.schedule
    if not isinstance(schedule, UpdateSchedule) or n_updates >= FEW_UPDATES:
        return ""
    if schedule.end == 1 and schedule.begin == 0:
        return " (few: the end is step 1; 1.0 is the whole training)"
    if schedule.interval == 1 or isinstance(algorithm, GradualMagnitudePruning):  # pruning needs no more than one
        return ""
    return f" (few: a schedule.interval below its {schedule.interval} steps makes more)"


def _layers_line(algorithm: SparseAlgorithm) -> list[str]:
    if algorithm.plans_layers():
        return []
    return [
        "the training decides how many connections each layer has: the rows are the distribution's shares, only their "
        "total is exact, and FLOPs are estimates"
    ]


def _cost_line(
    algorithm: SparseAlgorithm, shapes: Shapes, total_steps: int | None, dense_flops: Mapping[str, float]
) -> str:
    dense = sum(dense_flops.values())
    inference = planned_inference_flops(algorithm, shapes, dense_flops)
    line = f"inference: {inference * dense / 1e6:,.3f} of {dense / 1e6:,.3f} MFLOPs per sample = {inference:.4f}x dense"
    if total_steps:
        training = planned_training_flops(algorithm, shapes, dense_flops, total_steps)
        line += f"; training of {total_steps:,} steps: {training:.4f}x dense"
    return line


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([row[0].ljust(widths[0]), *numbers])
