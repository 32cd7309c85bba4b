"""Cautions: what is probably not meant, or went wrong at a mask update, in a sentence with layer and step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rigl_lightning.base.errors import StateError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections


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
