"""SparseTrainingCallback: sparse training of any LightningModule; it calls a Sparsifier from Lightning's hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import StateError
from rigl_lightning.compute import Compute, Storage
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.cautions import refuse_other_than_algorithm
from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer import averages, beginning, checks, distributed, finders, metrics, optimizers, precision
from rigl_lightning.trainer.computing import FitCompute
from rigl_lightning.trainer.flavours import callback_flavours
from rigl_lightning.trainer.flop_meter import FlopMeter
from rigl_lightning.trainer.settings import Settings


class SparseTrainingCallback(*callback_flavours()):  # type: ignore[misc]
    """Trains the weights of any LightningModule sparse; the module itself needs no change.

    One training step, hook by hook; inactive weights are zero but between ``optimizer.step`` and its hook::

        on_train_batch_start      (the first batch: FLOPs of the forward pass are counted)
        training_step             weights sparse
        on_before_backward        GraSP: product of the Hessian and the gradient, of the unscaled loss
        loss.backward             gradients dense: of inactive connections too
        on_after_backward         manual optimization: gradients masked, unless the coming update reads them dense
        on_before_optimizer_step  gradients dense, accumulated, averaged over processes, unscaled, not yet clipped
            RigL, SNIP, an update step:  drop and grow; no gradients are left, and the optimizer does nothing
            every other step:            SNFS averages the gradients, SET and pruning read them; then they are masked
        gradient clipping         gradients sparse
        optimizer.step            weights may leave their masks (momentum, noise of the optimizer)
        the optimizer's hook      SET, SNFS, pruning, an update step: drop and grow; weights masked; the step counts
        on_train_batch_end        after an update: masks compared between processes, metrics logged

    Logged are `mask_metrics` and FLOPs, as ``sparse/density`` and so on (see `MaskLog`), also at the ends of epochs. A
    checkpoint's ``state_dict`` is that of the plain dense module; the masks are in the callback's state. A resumed run
    equals the uninterrupted one.

    Args:
        algorithm: The method: `RigL`, `SET`, `Static`, ... with its settings.
        include: Name patterns of the sparse weights; None: of linear, convolution, recurrent and attention layers.
        exclude: Name patterns of weights that stay dense.
        depthwise: Make depthwise convolutions sparse, too.
        seed: Seed of masks and growth; None for the seed of ``seed_everything``, or 0.
        log_layers: Also log density, survival and dead units of every layer at each mask update.
        strict: Check all invariants after every step, and stop if one is broken.
        name: Name of one of several callbacks, each with its own optimizer; part of ``sparse/<name>/density``.
        compute: "sparse": Linear, Conv2d, GRU and LSTM on the CPU compute with active connections only (see
            `SparseCompute`); others are dense, with a warning. "dense": masked dense products. "auto": the one that a
            timing finds faster, so runs differ by rounding; "dense" if deterministic, compiled or on a GPU.
        storage: "connections": layers that compute sparsely store active weights, gradients and optimizer state only.
            "auto": the same, unless another callback may read the weights. "dense": none do. Checkpoints are dense.
        adam_warm_up: None, as in the authors' code, or n: Adam and AdamW correct young connections, see `AdamWarmUp`.
        by_density: Scale weights and learning rates by density, see `ByDensity`.
    """

    def __init__(
        self,
        algorithm: SparseAlgorithm,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        depthwise: bool = False,
        seed: int | None = None,
        log_layers: bool = False,
        strict: bool = False,
        name: str = "",
        compute: Compute = "auto",
        storage: Storage = "auto",
        adam_warm_up: int | None = None,
        by_density: ByDensity | None = None,
    ) -> None:
        super().__init__()
        refuse_other_than_algorithm(algorithm)
        self.algorithm = algorithm
        self.settings = Settings(include, exclude, depthwise, seed, log_layers, strict, name, adam_warm_up, by_density)
        self.sparsifier: Sparsifier | None = None
        self.flops = FlopMeter()
        self.computing = FitCompute(compute, storage)
        self.mask_log = metrics.MaskLog()
        self._step_hook: optimizers.StepHook | None = None  # only during fit
        self._finders = finders.Finders()
        self._frozen: dict[str, nn.Parameter] = {}
        self._restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Key of the masks in a checkpoint."""
        return self.settings.key

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer of the sparse weights during fit, else None."""
        return None if self._step_hook is None else self._step_hook.optimizer

    def metrics(self) -> dict[str, float]:
        """What is logged, as it stands now."""
        sparsifier = self._sparsifier()
        values = metrics.mask_metrics(sparsifier, self.settings.log_layers) | self.flops.metrics(sparsifier)
        return {f"{self.settings.prefix}{key}": value for key, value in values.items()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier test or validation loaded; a fit that resumes loads its own state after this."""
        self._restored = None
        if stage == "fit":
            checks.refuse_unsupported(trainer)
            self._finders.wrap(trainer, partial(self._search, trainer, pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the masks, or take up those of the checkpoint; parameters are placed and equal on all ranks here."""
        if not self._restored and beginning.is_nothing_to_plan(trainer, self.algorithm):
            return  # nothing is trained, so nothing is masked
        parameters = self.settings.select(pl_module)
        self._step_hook = optimizers.StepHook(trainer, parameters)
        checks.refuse_shared_optimizer(trainer, self)
        if self._restored is None and beginning.is_same_network(self.sparsifier, parameters):
            beginning.continue_previous_fit(self._sparsifier())
        else:
            state, self._restored, self._step_hook.is_new = self._restored or {}, None, not self._restored
            self.sparsifier = beginning.begin_or_resume(trainer, parameters, self.algorithm, self.settings, state)
            for part in (self.flops, self.mask_log, self.computing):
                part.load_state_dict(state)
            beginning.show_plan(self.sparsifier, self.flops.begin(pl_module))
        distributed.compare_starts(trainer, self._sparsifier(), self.state_key)
        self._frozen = self.settings.frozen(pl_module)
        checks.warn_before_training(trainer, self._sparsifier(), self._frozen)
        self._step_hook.attach(self._sparsifier())
        self.computing.start(trainer, pl_module, self._step_hook)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring what was loaded after the masks into line with them: momenta, and the count of steps."""
        beginning.follow_what_was_loaded(trainer, self._step_hook, self.state_key)
        averages.mask_averages(trainer, self._step_hook)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the final values; say so if training ended before its mask updates did."""
        if self.mask_log.is_behind():
            self._bring_into_line(trainer)
        metrics.log_now(trainer, self.metrics())
        self._sparsifier().divergence.warn_of_loss()
        checks.warn_of_missed_updates(self._sparsifier())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the optimizer and the layers."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizer; say so if it was a step without gradients that failed."""
        if self._step_hook is not None and self.sparsifier is not None:
            self.sparsifier.apply_masks()  # the exception may have come in the middle of a step
            checks.explain_step_without_gradients(self.sparsifier, self._step_hook.optimizer, exception)
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the finders of learning rate and batch size as they were."""
        self._finders.release()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the first forward pass; see once an epoch whether the network still is the same, and sparse."""
        if batch_idx == 0:
            checks.refuse_replaced_weights(pl_module, self._sparsifier().parameters)
            self._sparsifier().apply_masks()  # weights that were loaded since the last step are dense
            self._frozen = checks.warn_of_unfrozen(self._frozen)
        self.flops.watch(pl_module)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The forward pass is over; in manual optimization another may follow."""
        if pl_module.automatic_optimization:
            self.flops.keep()
        precision.before_backward(trainer, self._sparsifier(), loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In manual optimization users clip before the optimizer steps, so mask before they do."""
        sparsifier = self._sparsifier()
        if not pl_module.automatic_optimization and not sparsifier.algorithm.needs_dense_gradient(sparsifier.step):
            sparsifier.mask_gradients()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, *_: Any
    ) -> None:
        """Gradients are accumulated, reduced over ranks, unscaled and not yet clipped here."""
        if self._step_hook is not None:
            self._step_hook.follow(trainer)
        if optimizer is self.optimizer:
            if not precision.fused_step_overflowed(trainer, optimizer):
                self.flops.add_step(self._sparsifier())
            self._sparsifier().before_step(optimizer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """After a mask update: compare the ranks, and show what changed; not at every step if every step updates."""
        self.flops.keep()
        self.computing.report()
        if self.settings.strict:
            checks.check_invariants(self._sparsifier(), self.optimizer)
        if self.mask_log.is_news(trainer, self._sparsifier().last_update):
            self._bring_into_line(trainer)
            metrics.log_now(trainer, self.metrics())
            density = self._sparsifier().total_density()
            pl_module.log(f"{self.settings.prefix}density", density, prog_bar=True, logger=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the values available to other callbacks."""
        averages.mask_averages(trainer, self._step_hook)
        self._sparsifier().divergence.warn_of_loss()
        pl_module.log_dict(self.metrics(), logger=False, sync_dist=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Averaged weights are validated with the masks of now; say so if the network was never made sparse."""
        averages.mask_averages(trainer, self._step_hook)
        if self.sparsifier is None and not self._restored:
            checks.warn_of_dense(pl_module, self.settings.select, self.algorithm)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Averaged weights are saved with the masks of now; a checkpoint that refers to them already sees it too."""
        averages.mask_averages(trainer, self._step_hook)

    def state_dict(self) -> dict[str, Any]:
        """Masks and counters as plain tensors and numbers."""
        if self.sparsifier is None:
            return self._restored or {}
        parts = (self.sparsifier, self.flops, self.mask_log, self.computing)
        return {key: value for part in parts for key, value in part.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep the state until the parameters are in place (`on_fit_start`); during fit it is what a finder saved."""
        if self._step_hook is None:
            self._restored = dict(state_dict)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the accuracy of a checkpoint: density, FLOPs and bytes of its network, as metrics and in one line."""
        if trainer.state.fn != "fit" and "masks" in (state := self._restored or self.state_dict()):
            metrics.log_network(pl_module, state["masks"], self.settings.prefix)

    on_test_start = on_predict_start = on_validation_start
    on_validation_epoch_end = on_test_epoch_end

    def _sparsifier(self) -> Sparsifier:
        if self.sparsifier is None:
            raise StateError(checks.NO_MASKS)
        return self.sparsifier

    def _bring_into_line(self, trainer: Trainer) -> None:
        """Compare the masks of all processes, and mask averaged weights."""
        distributed.compare_ranks(trainer, self._sparsifier())
        averages.mask_averages(trainer, self._step_hook)
        self.mask_log.note_shown()

    @contextmanager
    def _search(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
        """What a finder of learning rate or batch size tries: the network with the masks of now, or of the start."""
        with self.computing.dense_weights():
            parameters = self.settings.select(pl_module)
            goes_on = self._restored is None and beginning.is_same_network(self.sparsifier, parameters)
            start = (trainer, parameters, self.algorithm, self.settings, self._restored)
            tried = self._sparsifier() if goes_on else beginning.on_trial(*start)
            with finders.held_sparse(parameters, tried, optimizers.optimizer_of(trainer, parameters), self._step_hook):
                yield

    def _release(self) -> None:
        for held in (self.flops, self.computing, self._finders, self._step_hook):
            if held is not None:
                held.release()
        self._step_hook, self._frozen = None, {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy is as after fit: the Trainer of workers, of processes and of files has no optimizer to follow."""
        return {**vars(self), "_step_hook": None, "_frozen": {}}
