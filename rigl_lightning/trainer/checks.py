"""Checks: what sparse training refuses to work with, and what a user has to be told of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import MissingFileError, SettingError, SparseTrainingWarning, StateError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.cautions import SPARSE_ALREADY, count_nonzero
from rigl_lightning.sparsity.distributions import active_counts
from rigl_lightning.sparsity.invariants import violations
from rigl_lightning.sparsity.layouts import shapes_of
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.flavours import callbacks_named

_REFUSED_STRATEGIES = {"FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}
NO_MASKS = (
    "SparseTrainingCallback has no masks yet: they are made when fit starts. A fit in processes of its own (strategy "
    "ddp_spawn, ddp_fork or ddp_notebook) leaves them there: they are in its checkpoint, and what was logged is in "
    "trainer.callback_metrics."
)
_LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}
_LONG = 1_000_000  # steps: the sparsity in the end does not depend on them


def refuse_unsupported(trainer: pl.Trainer) -> None:
    """Refuse a Trainer that masks cannot work with.

    Raises:
        ValueError: Naming its strategy, Lightning's own pruning, or steps of no batches.
    """
    if trainer.accumulate_grad_batches < 1:
        raise SettingError(
            f"Expected `accumulate_grad_batches` of at least 1, got {trainer.accumulate_grad_batches}. "
            "Set `accumulate_grad_batches` of the Trainer."
        )
    refuse_unsupported_strategy(trainer)
    _refuse_other_pruning(trainer)


def refuse_unsupported_strategy(trainer: pl.Trainer) -> None:
    """Refuse strategies that split parameters over devices, or let gradients differ between processes.

    Raises:
        ValueError: Naming the strategy and what to set instead.
    """
    strategy = type(trainer.strategy)
    if _REFUSED_STRATEGIES & {kind.__name__ for kind in strategy.__mro__}:
        raise SettingError(
            f"Expected a strategy that keeps whole parameters on each device (auto, ddp), got {strategy.__name__}, "
            'which shards them. Set `strategy` of the Trainer to "ddp".'
        )
    hook = getattr(getattr(trainer.strategy, "_ddp_comm_hook", None), "__name__", "")
    if "localSGD" in hook:
        raise SettingError(
            f"Expected gradients that are equal on all processes, got the communication hook {hook}, with which they "
            "differ, so that masks would too. Leave out `ddp_comm_hook`."
        )
    if "powerSGD" in hook.removeprefix("batched_"):
        rank_zero_warn(
            f"The communication hook {hook} keeps gradients of low rank only: connections are grown by what is left "
            "of them. Leave out `ddp_comm_hook` for algorithms that grow by gradient.",
            category=SparseTrainingWarning,
        )


def _refuse_other_pruning(trainer: pl.Trainer) -> None:
    """Refuse Lightning's own pruning: its masks would be added to those of the callback, and the network be sparser.

    Raises:
        ValueError: If there is a ModelPruning callback.
    """
    if callbacks_named(trainer, "ModelPruning"):
        raise SettingError(
            "Expected one callback that makes the network sparse, got Lightning's ModelPruning and "
            "SparseTrainingCallback. Remove one; GradualMagnitudePruning and OneShotMagnitude prune during training."
        )


def refuse_shared_optimizer(trainer: pl.Trainer, callback: Any) -> None:
    """Refuse two callbacks whose weights one optimizer updates: a step that one drops would be lost to the other.

    Raises:
        ValueError: Naming the callback.
    """
    for other in callbacks_named(trainer, "SparseTrainingCallback"):
        if other is not callback and other.optimizer is callback.optimizer:
            raise SettingError(
                f"Expected an optimizer of its own for each SparseTrainingCallback, got one for {callback.state_key} "
                "and another. Use one callback for both, or two optimizers."
            )


def refuse_replaced_weights(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Stop if a sparse weight is no part of the network any more: what took its place is dense.

    Raises:
        RuntimeError: Naming the weights.
    """
    present = {id(parameter) for parameter in module.parameters()}
    replaced = [name for name, parameter in parameters.items() if id(parameter) not in present]
    if replaced:
        raise StateError(
            f"Expected the network to keep its weights, but {_some(replaced)} been replaced since the masks were made: "
            "the new ones are dense. Replace layers before fit (in configure_model), or add them to `exclude`."
        )


def warn_of_unfrozen(frozen: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Say so if weights that were frozen when the masks were made learn now; returns those to be seen to further."""
    learning = [name for name, parameter in frozen.items() if parameter.requires_grad]
    if learning:
        rank_zero_warn(
            f"Weights that were frozen when fit began are trained now and stay dense: {_some(learning)} no mask. "
            "To make them sparse, let them require gradients before fit; to leave them dense, add them to `exclude`.",
            category=SparseTrainingWarning,
        )
    return {} if learning else frozen


def warn_before_training(trainer: pl.Trainer, sparsifier: Sparsifier, frozen: Mapping[str, nn.Parameter]) -> None:
    """Say what would be a surprise later: a schedule that is too long, weights to be unfrozen, a best that is dense."""
    _warn_of_late_updates(sparsifier)
    _warn_of_finetuning(trainer, frozen)
    _warn_of_early_best(trainer, sparsifier)


def _warn_of_late_updates(sparsifier: Sparsifier) -> None:
    """Say at the start, and not after the training, that its end comes before that of the schedule."""
    steps, total = sparsifier.algorithm.update_steps(), sparsifier.total_steps
    n_late = 0 if total is None else sum(step >= total for step in steps)
    if n_late and n_late < len(steps):  # of a schedule that never begins `update_caution` tells
        rank_zero_warn(
            f"{n_late} of the {len(steps)} mask updates come after the end of the training, at {total} steps: the "
            f"schedule is that of a training until step {steps[-1]}. Set its `end` to a fraction such as 0.75, or to a "
            "step before the end.",
            category=SparseTrainingWarning,
        )


def _warn_of_finetuning(trainer: pl.Trainer, frozen: Mapping[str, nn.Parameter]) -> None:
    """Say at the start, and not after the epochs until then, that weights to be unfrozen will be dense."""
    if frozen and callbacks_named(trainer, "BaseFinetuning"):
        rank_zero_warn(
            f"A finetuning callback will unfreeze weights during training; {_some([*frozen])} no mask and will be "
            "trained dense. Leave out that callback to make them sparse, or add them to `exclude`.",
            category=SparseTrainingWarning,
        )


def warn_of_dense(
    module: nn.Module, select: Callable[[nn.Module], Mapping[str, nn.Parameter]], algorithm: SparseAlgorithm
) -> None:
    """Say so if a network that is tested without masks is dense: its checkpoint may have been forgotten.

    Args:
        module: The network.
        select: Its sparse weights, as `select_parameters` finds them.
        algorithm: What trains it.
    """
    try:
        parameters = select(module)
        shapes = shapes_of(parameters)
        resolved = algorithm.resolve(_LONG)
        planned = sum(active_counts(shapes, resolved.final_sparsities(shapes)).values())
    except (ValueError, OSError):  # what training would refuse, a test has no use for
        return
    size = sum(parameter.numel() for parameter in parameters.values())
    kept = sum(count_nonzero(parameters).values())
    if planned < size and kept > SPARSE_ALREADY * size:
        rank_zero_warn(
            f"The network is dense: {1 - kept / size:.1%} of its weights are zero, and {type(algorithm).__name__} "
            f"leaves {1 - planned / size:.1%}. Give the checkpoint of the training (ckpt_path).",
            category=SparseTrainingWarning,
        )


def _warn_of_early_best(trainer: pl.Trainer, sparsifier: Sparsifier) -> None:
    """Say so if a checkpoint that is the best by some value may be one of a network that was not yet as sparse."""
    steps = sparsifier.algorithm.update_steps()
    monitors = [getattr(callback, "monitor", None) for callback in callbacks_named(trainer, "ModelCheckpoint")]
    monitored = [monitor for monitor in monitors if monitor is not None]
    if monitored and steps and steps[-1] > sparsifier.step and _is_denser_than_in_the_end(sparsifier):
        rank_zero_warn(
            f"ModelCheckpoint keeps the best checkpoint by {monitored[0]!r}, which may be one from before step "
            f"{steps[-1]}, until which the network is denser than in the end. Use the last one (save_last=True, "
            'ckpt_path="last").',
            category=SparseTrainingWarning,
        )


def _is_denser_than_in_the_end(sparsifier: Sparsifier) -> bool:
    """Whether the algorithm plans for fewer connections than there are now."""
    shapes = shapes_of(sparsifier.parameters)
    try:
        planned = active_counts(shapes, sparsifier.algorithm.final_sparsities(shapes))
    except MissingFileError:  # of a ticket, whose connections stay as many
        return False
    return sum(planned.values()) < sum(sparsifier.n_active.values())


def warn_of_missed_updates(sparsifier: Sparsifier) -> None:
    """Say so if training ended before its mask updates did, or none of them could be made."""
    updates = sparsifier.algorithm.update_steps()
    missed = [step for step in updates if step >= sparsifier.step]
    if missed:
        rank_zero_warn(
            f"Training ended after {sparsifier.step} steps, before {len(missed)} of the mask updates that were "
            f"planned until step {missed[-1]}.",
            category=SparseTrainingWarning,
        )
    if updates and not missed and sparsifier.last_update is None and _is_denser_than_in_the_end(sparsifier):
        rank_zero_warn(
            f"{type(sparsifier.algorithm).__name__} has made none of its mask updates (at step {updates[0]}), since "
            "gradients were not finite: the network is as dense as at the beginning. Lower the learning rate, or set "
            "`precision` of the Trainer to 32-true or bf16-mixed.",
            category=SparseTrainingWarning,
        )


def check_invariants(sparsifier: Sparsifier, optimizer: Optimizer | None) -> None:
    """Check all that masks promise.

    Raises:
        RuntimeError: Naming what is broken, and where.
    """
    broken = violations(sparsifier, optimizer)
    if broken:
        raise StateError(f"After {sparsifier.step} steps (strict=True): {'; '.join(broken)}.")


def explain_step_without_gradients(sparsifier: Sparsifier, optimizer: Optimizer, exception: BaseException) -> None:
    """Say what is special about the step that failed, if it is that of a mask update, and what has to be changed."""
    if not sparsifier.has_dropped_gradients or not isinstance(exception, Exception):
        return
    remedy = (
        f"{type(optimizer).__name__} has to leave such parameters alone. Use another optimizer, or"
        if _came_from(optimizer, exception)
        else "Your own clipping, logging and hooks have to pass over those (`if p.grad is not None`). Or"
    )
    rank_zero_warn(
        f"{type(exception).__name__} in the step of a mask update (step {sparsifier.step}), which takes the place of a "
        f"gradient step: all gradients are None. {remedy} have the algorithm update after the gradient step: subclass "
        "it with `replaces_step = False`.",
        category=SparseTrainingWarning,
    )


def _came_from(optimizer: Optimizer, exception: Exception) -> bool:
    """Whether an exception came from the optimizer's own code, and not from what it or Lightning has called."""
    is_its_own = False
    traceback = exception.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_locals.get("self") is optimizer:
            is_its_own = True
        elif frame.f_globals.get("__name__", "").split(".")[0] in _LIGHTNING:  # the closure is called inside the step
            is_its_own = False
        traceback = traceback.tb_next
    return is_its_own


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more} {'have' if more else 'has'}"
