"""Cautions: what is probably not meant, or went wrong at a mask update, in a sentence with layer and step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rigl_lightning.base.errors import StateError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.layouts import rows_are_units
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections

MAGNIFIED = 20.0
"""Gradients of units without connections that are so many times those of others are called magnified."""


def schedule_caution(algorithm: SparseAlgorithm, total_steps: int | None) -> str | None:
    """A sentence if the algorithm has a schedule and its masks will never change, or None.

    Args:
        algorithm: Resolved.
        total_steps: Length of the training, if it is known.

    >>> from rigl_lightning import RigL
    >>> schedule_caution(RigL(schedule=UpdateSchedule(100, 0, 1)), 1000)
    'RigL updates its masks at step 0 only: end=1 is step 1; 1.0 is the whole training. Set its schedule.'
    """
    schedule, name = algorithm.schedule, type(algorithm).__name__
    if not isinstance(schedule, UpdateSchedule):
        return None
    steps = [step for step in algorithm.update_steps()[:2] if total_steps is None or step < total_steps]
    if not steps:
        window = f"begin={schedule.begin}, end={schedule.end}"
        length = "" if total_steps is None else f" of a training of {total_steps} steps"
        return f"{name} never updates its masks: there is no update step in {window}{length}. Set its schedule."
    if len(steps) == 1 and schedule.end == 1 and schedule.begin == 0:
        at = "at step 0 only: end=1 is step 1; 1.0 is the whole training"
        return f"{name} updates its masks {at}. Set its schedule."
    return None


def update_left_out(algorithm: SparseAlgorithm, step: int, layers: list[str]) -> str:
    """What to say where gradients that are not finite kept an update from being made, and the step was taken."""
    others = any(later > step for later in algorithm.update_steps())
    rest = "The next is tried as planned." if others else "It was the last one: the masks stay as they are from now on."
    return (
        f"{type(algorithm).__name__} left out its mask update at step {step}: the gradient of layer {layers[0]!r} is "
        f"not finite ({len(layers)} such layers). {rest}"
    )


def refuse_capture(algorithm: SparseAlgorithm, step: int, is_due: bool) -> None:
    """Say that this step cannot be part of a CUDA graph, if so.

    Raises:
        RuntimeError: At a mask update, and for algorithms that look whether gradients are finite at every step.
    """
    if is_due:
        raise StateError(
            f"Expected an ordinary step while a CUDA graph is captured, got the mask update of step {step}: it reads "
            "values from the device. Run the steps of `algorithm.is_update` outside of the graph."
        )
    if algorithm.hides_inactive_weights:
        raise StateError(
            f"Expected an algorithm whose steps a CUDA graph can hold, got {type(algorithm).__name__}: each waits to "
            "know whether gradients are finite. Run its steps outside of graphs."
        )


def magnified_growth(name: str, layer: Connections, new_mask: Tensor, step: int) -> str | None:
    """A sentence if an update grows into units without a connection whose gradients are far above all others, or None.

    Batch norm divides by the standard deviation of a unit's outputs. A unit without an incoming connection has none,
    and its gradients are magnified by 1 / sqrt(eps), 316 by default; so is its first step.

    Args:
        name: Of the layer.
        layer: As the update saw it.
        new_mask: What the update made of its mask.
        step: Of the update.
    """
    if layer.dense_grad is None or layer.weight.ndim < 2:
        return None
    mask, new_mask, gradient = (rows_are_units(t, layer.inputs_first) for t in (layer.mask, new_mask, layer.dense_grad))
    dead = ~mask.flatten(1).any(1)
    grown_into = dead & new_mask.flatten(1).any(1)
    if not bool(grown_into.any()):
        return None
    size = gradient.abs().flatten(1).mean(1)
    factor = float(size[grown_into].mean() / size[~dead].mean().clamp(min=torch.finfo(size.dtype).tiny))
    if not MAGNIFIED < factor < math.inf or bool(dead.all()):
        return None
    return (
        f"The mask update at step {step} grows into {int(grown_into.sum())} units of layer {name!r} that have no "
        f"connection, and gradients {factor:.0f} times those of others, as batch norm makes them. Their first steps "
        "will be as large: clip the gradients, or set a larger eps in the batch norm (docs/troubleshooting.md)."
    )


def why_scores_are_nan(algorithm: SparseAlgorithm, layers: Mapping[str, Connections], step: int) -> str | None:
    """A sentence that names layer and cause if a mask update failed because of NaN, or None if there is none."""
    for name, layer in layers.items():
        seen: dict[str, Tensor | None] = {
            "weights": layer.weight,
            "gradients": layer.dense_grad,
            "averaged gradients": layer.dense_grad_average,
        }
        for what, tensor in seen.items():
            if tensor is not None and bool(tensor.isnan().any()):
                remedy = "The training has diverged: lower the learning rate, or clip gradients."
                return f"{_expected(step)}, but the {what} of layer {name!r} are NaN. {remedy}"
    for name, layer in layers.items():
        for setting in algorithm.ranked_by:
            score = getattr(algorithm, setting)
            values = score(layer)
            if isinstance(values, Tensor) and values.is_floating_point() and bool(torch.isnan(values).any()):
                called = getattr(score, "__qualname__", score)
                return f"{_expected(step)}, but `{setting}` {called} gives NaN for layer {name!r}. Correct the score."
    return None


def _expected(step: int) -> str:
    return f"Expected scores without NaN at the mask update of step {step}"
