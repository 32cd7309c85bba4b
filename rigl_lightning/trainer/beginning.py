"""The beginning of a fit: new masks, those of a checkpoint, or those of the fit before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from rigl_lightning.base.errors import SettingError, SparseTrainingWarning
from rigl_lightning.reports.layer_table import table_of
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.cautions import lost_topology_is_said
from rigl_lightning.sparsity.layouts import copy_of
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.optimizers import StepHook, total_steps
from rigl_lightning.trainer.settings import Settings


def is_nothing_to_plan(trainer: pl.Trainer, algorithm: SparseAlgorithm) -> bool:
    """Whether no step is made and the algorithm's schedule is given in fractions of them all."""
    if total_steps(trainer) != 0:
        return False
    try:
        algorithm.resolve(None)
    except ValueError:
        return True
    return False


def is_same_network(sparsifier: Sparsifier | None, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Whether these are the parameters of the previous fit, whose masks go on then."""
    previous = {} if sparsifier is None else sparsifier.parameters
    return previous.keys() == parameters.keys() and all(previous[name] is parameters[name] for name in previous)


def on_trial(
    trainer: pl.Trainer,
    parameters: Mapping[str, nn.Parameter],
    algorithm: SparseAlgorithm,
    settings: Settings,
    state: Mapping[str, Any] | None,
) -> Sparsifier:
    """What `begin_or_resume` would make of these parameters, which stay as they are: it is that of copies."""
    copies = {name: copy_of(parameter) for name, parameter in parameters.items()}
    return begin_or_resume(trainer, copies, algorithm, settings, state)


def begin_or_resume(
    trainer: pl.Trainer,
    parameters: Mapping[str, nn.Parameter],
    algorithm: SparseAlgorithm,
    settings: Settings,
    state: Mapping[str, Any] | None,
) -> Sparsifier:
    """Mask the weights with new masks, or with those in the ``state`` of a checkpoint; an empty one has none."""
    steps = None if state else total_steps(trainer) or None
    return Sparsifier(
        parameters,
        algorithm,
        steps,
        settings.seed_now(),
        state or None,
        adam_warm_up=settings.adam_warm_up,
        by_density=settings.by_density,
    )


def continue_previous_fit(sparsifier: Sparsifier) -> None:
    """Mask the weights as in the fit before, of the same callback and network in this process, and say so.

    Warns if no mask update is left, and if other weights were loaded since, such as those of the best checkpoint.
    """
    with lost_topology_is_said(sparsifier.algorithm, sparsifier.parameters):
        sparsifier.apply_masks()
    rank_zero_info(f"The masks of the previous fit go on at step {sparsifier.step}.")
    updates = sparsifier.algorithm.update_steps()
    if len(updates) > 1 and updates[-1] < sparsifier.step:  # who prunes once means the masks to stay
        rank_zero_warn(
            f"The masks stay as they are in this fit: it goes on at step {sparsifier.step} of the previous one, "
            f"whose last mask update was at {updates[-1]}. To begin anew, make a new callback and a new network.",
            category=SparseTrainingWarning,
        )


def follow_what_was_loaded(trainer: pl.Trainer, hook: StepHook | None, key: str) -> None:
    """Mask momenta that were loaded after the masks, and take up the count of steps of a checkpoint without masks.

    Args:
        trainer: About to train.
        hook: Of this fit.
        key: Of the callback.

    Raises:
        ValueError: See `start_late`.
    """
    if hook is None or hook.sparsifier is None:
        return
    hook.sparsifier.mask_optimizer_state(hook.optimizer)
    if trainer.global_step > 0 and hook.is_new:  # it counts the steps of all optimizers, see `total_steps`
        start_late(hook.sparsifier, math.ceil(trainer.global_step / len(trainer.strategy.optimizers)), key)


def start_late(sparsifier: Sparsifier, step: int, key: str) -> None:
    """Begin at ``step`` of a training whose checkpoint has no masks.

    Raises:
        ValueError: If all mask updates would have been before.
    """
    updates = sparsifier.algorithm.update_steps()
    if updates and updates[-1] < step:
        raise SettingError(
            f"Expected mask updates after step {step}, where the checkpoint continues, but the last is at "
            f"{updates[-1]}, so the network would never become what was asked for. Start from the weights alone "
            "(load_state_dict), or set the end of the schedule later."
        )
    rank_zero_warn(
        f"The checkpoint holds no masks of {key}: sparse training starts with new masks at step {step}. "
        "To start from a sparse network, use FixedMasks with its checkpoint.",
        category=SparseTrainingWarning,
    )
    sparsifier.step = step


def show_plan(sparsifier: Sparsifier, dense_flops: Mapping[str, float]) -> None:
    """Show the table of layers, and where a restored training goes on."""
    rank_zero_info(f"\n{table_of(sparsifier, dense_flops)}")
    if sparsifier.step > 0:
        rank_zero_info(f"masks restored at step {sparsifier.step}")
