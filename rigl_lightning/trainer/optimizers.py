"""The optimizer that steps the sparse weights, and how many steps it will make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.refused_optimizers import refuse_optimizer
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.flavours import callbacks_named
from rigl_lightning.trainer.precision import skip_value_clipping


class StepHook:
    """Calls `Sparsifier.after_step` after each real step of the optimizer, from `attach` to `release`.

    It is the optimizer's own hook, so it comes before any other callback sees the weights, and not after a step that
    a GradScaler has skipped.

    Args:
        trainer: Has made its optimizers.
        parameters: Sparse weights by name.

    Attributes:
        optimizer: The one that updates them.
        sparsifier: Theirs, or None before `attach`.
        is_new: Whether its masks were made for this fit.

    Raises:
        ValueError: See `optimizer_of`.
    """

    def __init__(self, trainer: pl.Trainer, parameters: Mapping[str, nn.Parameter]) -> None:
        self.optimizer = optimizer_of(trainer, parameters)
        self.is_new = False
        self._undo_clipping = skip_value_clipping(trainer)
        self.sparsifier: Sparsifier | None = None
        self._handle: Any = None

    def attach(self, sparsifier: Sparsifier) -> None:
        """Begin."""
        self.sparsifier = sparsifier
        self._handle = self.optimizer.register_step_post_hook(lambda optimizer, *_: sparsifier.after_step(optimizer))

    def follow(self, trainer: pl.Trainer) -> None:
        """Go over to the optimizers that the Trainer has now, if they were made anew."""
        if self.sparsifier is not None and all(present is not self.optimizer for present in trainer.optimizers):
            self._handle.remove()
            self.optimizer = optimizer_of(trainer, self.sparsifier.parameters)
            self.attach(self.sparsifier)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Steps in between do not count."""
        self._handle.remove()
        try:
            yield
        finally:
            if self.sparsifier is not None:
                self.attach(self.sparsifier)

    def release(self) -> None:
        """End."""
        self._undo_clipping()
        if self._handle is not None:
            self._handle.remove()


def optimizer_of(trainer: pl.Trainer, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """The optimizer that updates all sparse parameters.

    Its step hooks work from its first step on.

    Raises:
        ValueError: If there is none, more than one, or one that masks cannot work with, see `refuse_optimizer`.
    """
    optimizers = list(dict.fromkeys(trainer.strategy.optimizers))
    owned = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in optimizers]
    homes = {name: [i for i, ids in enumerate(owned) if id(p) in ids] for name, p in parameters.items()}
    homeless = [name for name, found in homes.items() if not found]
    if homeless:
        raise SettingError(
            f"Expected every sparse weight in an optimizer, but no optimizer updates {homeless[0]!r} "
            f"({len(homeless)} such weights). Add it to configure_optimizers, or to `exclude` of "
            "SparseTrainingCallback."
        )
    shared = [name for name, found in homes.items() if len(found) > 1]
    if shared:
        raise SettingError(
            f"Expected every sparse weight in one optimizer, but {len(homes[shared[0]])} update {shared[0]!r} "
            f"({len(shared)} such weights): steps of the others would move inactive weights. Give it to one of them in "
            "configure_optimizers, or to `exclude` of SparseTrainingCallback."
        )
    indices = {home for found in homes.values() for home in found}
    if len(indices) != 1:
        raise SettingError(
            f"Expected one optimizer for all sparse weights, got {len(indices)}. Use one SparseTrainingCallback for "
            "each optimizer, with a `name` and the `include` patterns of its weights."
        )
    optimizer = optimizers[indices.pop()]
    refuse_optimizer(optimizer)
    _ensure_step_hooks(optimizer)
    return optimizer


def _ensure_step_hooks(optimizer: Optimizer) -> None:
    # Wrappers that do not call Optimizer.__init__ (timm's Lookahead) get their hooks at their first zero_grad, which
    # in Lightning is inside their first step: that step would pass unseen.
    if not getattr(type(optimizer).step, "hooked", False):
        optimizer._patch_step_function()


def total_steps(trainer: pl.Trainer) -> int | None:
    """Steps of the sparse weights' optimizer in the whole training; None if nobody knows, 0 if nothing is trained.

    Several optimizers are taken to step equally often; then the epochs do not tell how often, and ``max_steps`` does.
    """
    if trainer.max_epochs == 0 or trainer.limit_train_batches == 0:
        return 0
    n_optimizers = len(trainer.strategy.optimizers)
    limit = None if trainer.max_steps == -1 else math.ceil(trainer.max_steps / n_optimizers)
    with _without_epoch_of_swa(trainer):
        steps = None if n_optimizers > 1 else _steps_of_epochs(trainer)
    known = [number for number in (limit, steps) if number is not None]
    return min(known) if known else None


@contextmanager
def _without_epoch_of_swa(trainer: pl.Trainer) -> Iterator[None]:
    """SWA adds an epoch that makes no step, if there are batch norms: in its ``on_fit_start``, which may be before."""
    epochs = trainer.max_epochs
    for swa in callbacks_named(trainer, "StochasticWeightAveraging"):
        if swa._model_contains_batch_norm and swa._max_epochs + 1 == epochs:
            trainer.fit_loop.max_epochs = swa._max_epochs
    try:
        yield
    finally:
        trainer.fit_loop.max_epochs = epochs


def _steps_of_epochs(trainer: pl.Trainer) -> int | None:
    """Steps that one optimizer makes in ``max_epochs``; where accumulation changes, only with ``max_steps``."""
    schedulers = callbacks_named(trainer, "GradientAccumulationScheduler")
    if not schedulers:
        steps = trainer.estimated_stepping_batches
        return int(steps) if 0 <= steps < math.inf else None
    changes = any(len(scheduler.scheduling) > 1 for scheduler in schedulers)
    if trainer.max_epochs in (None, -1) or (changes and trainer.max_steps == -1):
        return None
    # Lightning's estimate has the factor of the epoch before: until the first begins, that is 1.
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    factors = (schedulers[-1].get_accumulate_grad_batches(epoch) for epoch in range(trainer.max_epochs))
    return None if batches == math.inf else sum(math.ceil(batches / factor) for factor in factors)
