"""Cautions: what is probably not meant, or went wrong at a mask update, in a sentence with layer and step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rigl_lightning.base.classes import subclasses
from rigl_lightning.base.errors import SettingError, SparseTrainingWarning, StateError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.algorithms import Group, LotteryTicket, SparseAlgorithm
from rigl_lightning.sparsity.algorithms.group import with_members
from rigl_lightning.sparsity.scores import Connections, Score

_NEEDED = ("algorithm", "explored", "first_masks", "grad_averages", "masks", "total_steps")
"""Keys that every `Sparsifier.state_dict` has had."""
SPARSE_ALREADY = 0.9
"""Fraction of weights other than zero below which a network was sparse: a dense one has next to no zeros."""


def update_caution(algorithm: SparseAlgorithm, total_steps: int | None) -> str | None:
    """A sentence if the algorithm has a schedule and its masks never change, or a `caution` of its own, or None.

    Args:
        algorithm: Resolved.
        total_steps: Length of the training, if it is known.

    >>> from rigl_lightning import RigL, UpdateSchedule
    >>> update_caution(RigL(schedule=UpdateSchedule(100, 0, 0)), None)
    'RigL never updates its masks: there is no update step in begin=0, end=0. Set its schedule.'
    """
    return next(filter(None, (_caution_of(part, total_steps) for part in with_members(algorithm))), None)


def _caution_of(algorithm: SparseAlgorithm, total_steps: int | None) -> str | None:
    schedule = algorithm.schedule
    if schedule is None or any(total_steps is None or step < total_steps for step in algorithm.update_steps()[:1]):
        return algorithm.caution
    window = f"begin={schedule.begin}, end={schedule.end}"
    length = "" if total_steps is None else f" of a training of {total_steps} steps"
    name = type(algorithm).__name__
    return f"{name} never updates its masks: there is no update step in {window}{length}. Set its schedule."


def refuse_other_than_algorithm(algorithm: object) -> None:
    """Refuse what is no algorithm.

    Raises:
        ValueError: Naming what it is, and how to write it.
    """
    if isinstance(algorithm, SparseAlgorithm):
        return
    kinds = {kind.__name__.lower(): kind for kind in subclasses(SparseAlgorithm)}
    meant = algorithm if isinstance(algorithm, type) else kinds.get(str(algorithm).lower())
    name = meant.__name__ if meant is not None and meant in kinds.values() else "RigL"
    got = f"the class {name}" if meant is algorithm else repr(algorithm)
    raise SettingError(f"Expected `algorithm` to be one such as {name}(sparsity=0.9), got {got}. Set `algorithm`.")


def refuse_other_than_state(state: object) -> None:
    """Refuse what no `Sparsifier.state_dict` returned.

    Raises:
        ValueError: Naming what it is.
    """
    missing = [key for key in _NEEDED if key not in state] if isinstance(state, Mapping) else []
    if missing or not isinstance(state, Mapping):
        got = f"one without {', '.join(missing)}" if missing else repr(state)
        raise SettingError(
            f"Expected what `state_dict` of a Sparsifier returned, got {got}. Give that; masks of other files are for "
            "FixedMasks, and a Trainer's checkpoint is for `ckpt_path` of fit."
        )


def resolve_for_new_training(algorithm: SparseAlgorithm, total_steps: int | None) -> SparseAlgorithm:
    """The algorithm, resolved for a training that begins; refuses a schedule that ends at step 1, an int.

    What is meant is 1.0, all of training. A single update at step 0 can be had with any other end up to the interval.

    Args:
        algorithm: As it was given, not resolved: a fraction of a short training may be step 1.
        total_steps: Length of the training, if it is known.

    Raises:
        ValueError: If it does so.
    """
    for part in with_members(algorithm):
        schedule = part.schedule
        if schedule is not None and type(schedule.end) is int and schedule.end == 1 and total_steps != 1:
            word = getattr(part, "outside_words", {}).get("schedule", "schedule")
            raise SettingError(
                f"Expected `end` of the schedule of {type(part).__name__} to be a fraction, such as 1.0 for the whole "
                f"training, or a step of at least 2, got 1, which is step 1: masks would hardly change. Set `end` of "
                f"`{word}` to 1.0."
            )
    return algorithm.resolve(total_steps)


def count_nonzero(parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Weights other than zero by layer; layers of zeros alone, which some networks start with, are left out."""
    counts = {name: count_active(parameter.detach() != 0) for name, parameter in parameters.items()}
    return {name: count for name, count in counts.items() if count}


@contextmanager
def lost_topology_is_said(algorithm: SparseAlgorithm, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Warn if masks that are made or applied within take weights out of a network that was trained sparse already.

    Args:
        algorithm: One that hides inactive weights loses none.
        parameters: Sparse weights by name.
    """
    before = {} if algorithm.hides_inactive_weights else count_nonzero(parameters)
    yield
    size, n_before = sum(parameters[name].numel() for name in before), sum(before.values())
    if n_before >= SPARSE_ALREADY * size:
        return
    n_kept = sum(count_active(parameters[name].detach() != 0) for name in before)
    if n_kept < SPARSE_ALREADY * n_before:
        warnings.warn(
            f"The network was sparse before it got its masks: {1 - n_before / size:.1%} of its weights were zero, and "
            f"of the others these masks kept {n_kept / n_before:.1%}. To go on with the masks of before, resume from "
            "their checkpoint (`ckpt_path` of fit, `state` of a Sparsifier), or use FixedMasks with it; to begin anew, "
            "start from dense weights.",
            stacklevel=4,
            category=SparseTrainingWarning,
        )


def update_left_out(algorithm: SparseAlgorithm, step: int, layers: list[str]) -> str:
    """What to say where gradients that are not finite kept an update from being made, and the step was taken.

    Args:
        algorithm: Resolved.
        step: Of the update.
        layers: The sparse ones among them; none if the gradient is that of another parameter.
    """
    others = any(later > step for later in algorithm.update_steps())
    rest = "The next is tried as planned." if others else "It was the last one: the masks stay as they are from now on."
    where = "a weight that is not sparse is not finite"
    if layers:
        where = f"layer {layers[0]!r} is not finite ({len(layers)} such layers)"
    return f"{type(algorithm).__name__} left out its mask update at step {step}: the gradient of {where}. {rest}"


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
    for name, setting, score in _scores(algorithm, layers):
        values = score(layers[name])
        if isinstance(values, Tensor) and values.is_floating_point() and bool(torch.isnan(values).any()):
            called = getattr(score, "__qualname__", score)
            return f"{_expected(step)}, but `{setting}` {called} gives NaN for layer {name!r}. Correct the score."
    return None


def _scores(algorithm: SparseAlgorithm, names: Iterable[str]) -> Iterator[tuple[str, str, Score]]:
    """By what each layer is ranked: its name, the setting, and the score; also in a Group and from a ticket."""
    if isinstance(algorithm, Group):
        for pattern, own in algorithm.parts(names).items():
            yield from _scores(algorithm.algorithms[pattern], own)
    elif isinstance(algorithm, LotteryTicket) and algorithm.algorithm is not None:
        yield from _scores(algorithm.algorithm, names)
    for name in names:
        yield from ((name, setting, getattr(algorithm, setting)) for setting in algorithm.ranked_by)


def _expected(step: int) -> str:
    return f"Expected scores without NaN at the mask update of step {step}"
