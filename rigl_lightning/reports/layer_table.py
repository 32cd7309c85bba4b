"""Reporting: what a user is shown of a sparse network, as text and as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from rigl_lightning.base.errors import MissingFileError
from rigl_lightning.sparsity.algorithms import GradualMagnitudePruning, Group, SparseAlgorithm, describe
from rigl_lightning.sparsity.costs.training import planned_inference_flops, planned_training_flops
from rigl_lightning.sparsity.distributions import Shapes, active_counts
from rigl_lightning.sparsity.layouts import shapes_of
from rigl_lightning.sparsity.names import folded, without_numbers
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.sparsifier import Sparsifier

FEW_UPDATES = 4
"""Fewer mask updates than this hardly move connections; the table then says how to have more."""


def layer_table(
    algorithm: SparseAlgorithm,
    shapes: Shapes,
    total_steps: int | None = None,
    dense_flops: Mapping[str, float] | None = None,
) -> str:
    """Table of the sparse layers: shape, connections, active ones, sparsity, and forward FLOPs if they are known.

    Layers that are alike but for numbers in their names are one line, whose numbers are those of each. Shows the
    network that comes out at the end: for methods that start dense, the sparsity they go to. Where the training decides
    what each layer gets, it says so, and shows the shares of the distribution.

    Args:
        algorithm: Resolved.
        shapes: Shape of each sparse layer by name.
        total_steps: Length of training, for the costs.
        dense_flops: Forward FLOPs of each weight, per sample, when dense.
    """
    planned = algorithm.final_sparsities(shapes)
    active = active_counts(shapes, planned)
    of_group = _members(algorithm, shapes)
    own = ("algorithm",) if of_group else ()
    costs = ("dense MFLOPs", "MFLOPs") if dense_flops else ()
    rows = [("layer", "shape", "connections", "active", "sparsity", *costs, *own)]
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, shape in shapes.items():
        flops = dense_flops.get(name, 0.0) if dense_flops else None
        key = (without_numbers(name), tuple(shape), round(planned.get(name, 0.0), 9), flops, of_group.get(name))
        alike.setdefault(key, []).append(name)
    for (_, shape, _, flops, member), names in alike.items():
        mine = () if member is None else (member,)
        rows.append((folded(names), *_row(shape, [active[name] for name in names], flops), *mine))
    total, kept = sum(map(math.prod, shapes.values())), sum(active.values())
    rows.append(("total", "", f"{total:,}", f"{kept:,}", f"{1 - kept / total:.4f}", *([""] * (len(rows[0]) - 5))))
    lines = [_algorithm_line(algorithm), _schedule_line(algorithm), *_layers_line(algorithm), *_aligned(rows)]
    if dense_flops:
        lines.append(_cost_line(algorithm, shapes, total_steps, dense_flops))
    return "\n".join(lines)


def table_of(sparsifier: Sparsifier, dense_flops: Mapping[str, float] | None = None) -> str:
    """`layer_table` of a training; a note where it goes on without the file that its masks once came from."""
    try:
        return layer_table(sparsifier.algorithm, shapes_of(sparsifier.parameters), sparsifier.total_steps, dense_flops)
    except MissingFileError:
        return f"{describe(sparsifier.algorithm)}: masks are those of the training so far, and the file is gone"


def _members(algorithm: SparseAlgorithm, shapes: Shapes) -> dict[str, str]:
    """Of a Group, the kind of algorithm that each layer has."""
    if not isinstance(algorithm, Group):
        return {}
    parts = algorithm.parts(shapes)
    return {name: type(algorithm.algorithms[pattern]).__name__ for pattern, names in parts.items() for name in names}


def _row(shape: tuple[int, ...], active: Sequence[int], flops: float | None) -> tuple[str, ...]:
    """Cells of layers that are alike after their name.

    Args:
        shape: Of each.
        active: Connections of each; where they differ, rounding has given one more to some.
        flops: Of each when dense; None if none are known.
    """
    size = math.prod(shape)
    least, most = min(active), max(active)
    costs = () if flops is None else (f"{flops / 1e6:,.3f}", f"{flops * least / size / 1e6:,.3f}")
    counts = f"{least:,}" if least == most else f"{least:,}-{most:,}"
    return ("x".join(map(str, shape)), f"{size:,}", counts, f"{1 - least / size:.4f}", *costs)


def _algorithm_line(algorithm: SparseAlgorithm) -> str:
    """What was set, and then all settings but the schedule: whoever compares runs wants to see the defaults, too."""
    names: list[str] = [f.name for f in fields(algorithm)] if is_dataclass(algorithm) else []
    values = {name: getattr(algorithm, name) for name in names if name != "schedule"}
    settings = [f"{name.replace('_', ' ')} {describe(value)}" for name, value in values.items() if value is not None]
    return f"{describe(algorithm)}{': ' if settings else ''}{', '.join(settings)}"


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
    return f" (few; for more, set an interval below {schedule.interval} steps)"


def _layers_line(algorithm: SparseAlgorithm) -> list[str]:
    if algorithm.has_planned_layers():
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
        line += f"; training of {total_steps:,} steps: {training:.4f}x the FLOPs of dense training"
    return line


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([row[0].ljust(widths[0]), *numbers])
