"""SparseTrainingCallback: sparse training of any LightningModule, by telling a Sparsifier when."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from rigl_lightning.compute import Compute, SparseCompute, check_compute, compute_table, dense_layers
from rigl_lightning.reports.layer_table import TrainingCost, layer_table, mask_metrics
from rigl_lightning.reports.network import report_network, structure_of
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.costs.flops import FlopCounter, sparse_forward_flops
from rigl_lightning.sparsity.files.masks import unpack_masks
from rigl_lightning.sparsity.invariants import violations
from rigl_lightning.sparsity.parameters import frozen_parameters, select_parameters
from rigl_lightning.sparsity.sparsifier import MaskUpdate, Sparsifier
from rigl_lightning.trainer.checks import (
    count_nonzero,
    refuse_replaced_weights,
    warn_of_dense,
    warn_of_early_best,
    warn_of_finetuning,
    warn_of_lost_topology,
    warn_of_unfrozen,
)
from rigl_lightning.trainer.finders import FinderWrapping, held_sparse
from rigl_lightning.trainer.optimizers import (
    callback_flavours,
    callbacks_of,
    compare_ranks,
    example_flops,
    fused_step_overflowed,
    is_compiled,
    let_value_clipping_find_nothing,
    mask_averages,
    optimizer_of,
    refuse_other_pruning,
    refuse_unsupported_strategy,
    total_steps,
    unscaled_loss,
)


class SparseTrainingCallback(*callback_flavours()):  # type: ignore[misc]
    """Trains the weights of any LightningModule sparse; the module itself needs no change.

    Logs at every mask update (every ``log_every_n_steps`` of the Trainer for algorithms that update at every step), and
    at the ends of epochs for `ModelCheckpoint` and `EarlyStopping` to monitor, what `mask_metrics` lists
    (``sparse/density``, ``sparse/churn``, ...), and ``sparse/train_flops``, ``sparse/inference_flops`` relative to the
    dense network.

    A checkpoint holds the masks in the callback's own state; its ``state_dict`` is that of the plain dense module.
    Resuming it with the same callback continues exactly.

    Args:
        algorithm: What to do: `RigL`, `SET`, `Static`, ... with its settings.
        include: Name patterns of the weights to make sparse, see `select_parameters`; None for the usual ones.
        exclude: Name patterns of weights to leave dense.
        depthwise: Make depthwise convolutions sparse too.
        seed: Seed of masks and growth; None for the seed of ``seed_everything``, or 0.
        log_layers: Log also the density, survival and dead units of every layer at each mask update.
        strict: Check all invariants after every step and stop with a message if one is broken. It reads all weights
            once more a step: for finding out, not for every training.
        name: Tells several callbacks of one Trainer apart, each with parameters (``include``) and optimizer of its own;
            they log ``sparse/<name>/density`` and so on.
        compute: How the sparse layers are computed while training. "sparse": on the CPU, Linear, Conv2d, GRU and LSTM
            read their active connections only (see `SparseCompute`); the rest is dense, with a warning. "auto": where
            that is also faster, which is measured on the first batch and reported; results then agree from run to run
            to rounding only, and under ``Trainer(deterministic=True)`` it is "dense". "dense": masked dense products.
            On a GPU, under autocast or torch.compile "auto" is dense.

    A Trainer with it:

        trainer = pl.Trainer(callbacks=SparseTrainingCallback(RigL(sparsity=0.9)), max_epochs=10)
        trainer.fit(model, data)
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
    ) -> None:
        super().__init__()
        if not isinstance(algorithm, SparseAlgorithm):
            raise ValueError(
                f"Expected `algorithm` to be one such as RigL(sparsity=0.9), got {algorithm!r}. Set it so."
            )
        check_compute(compute)
        self.compute = compute
        self.algorithm = algorithm
        self.include = include
        self.exclude = exclude
        self.depthwise = depthwise
        self.seed = seed
        self.log_layers = log_layers
        self.strict = strict
        self.name = name
        self.sparsifier: Sparsifier | None = None
        self.cost = TrainingCost()
        self.dense_flops: dict[str, float] = {}
        self._restored: dict[str, Any] | None = None
        self._counter: FlopCounter | None = None
        self._optimizer: Optimizer | None = None
        self._post_hook: Any = None
        self._finders: FinderWrapping | None = None
        self._undo_clipping: Callable[[], None] | None = None
        self._frozen: dict[str, nn.Parameter] = {}
        self._sparse_compute: SparseCompute | None = None
        self._compute_choices: dict[str, Any] = {}
        self._compute_shown: dict[str, bool] | None = None
        self._seen_update: MaskUpdate | None = None
        self._shown_step: int | None = None

    @property
    def state_key(self) -> str:
        """Key of the masks in a checkpoint; settings are not part of it, so changing one does not lose the masks."""
        return f"SparseTrainingCallback[{self.name}]" if self.name else "SparseTrainingCallback"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget what an earlier test or validation loaded; a fit that resumes loads its own state after this."""
        self._restored = None
        if stage == "fit":
            refuse_unsupported_strategy(trainer)
            refuse_other_pruning(trainer)
            self._finders = FinderWrapping(trainer, lambda: self._search(trainer, pl_module))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the finders of learning rate and batch size as they were."""
        self._release_finders()

    # ---- start and end -----------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the masks, or take up those of the checkpoint; parameters are placed and equal on all ranks here."""
        parameters = self.select(pl_module)
        self._optimizer = optimizer_of(trainer, parameters)
        self._refuse_shared_optimizer(trainer)
        if self._restored is not None or not self._continues(parameters):
            self._build(trainer, pl_module, parameters)
        else:
            self._go_on()
        self._frozen = frozen_parameters(pl_module, self.include, self.exclude, self.depthwise)
        warn_of_finetuning(trainer, self._frozen)
        warn_of_early_best(trainer, self._active())
        self._undo_clipping = let_value_clipping_find_nothing(trainer)
        self._hook_optimizer()
        self._install_compute(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring what was loaded after the masks into line with them: momenta, and the count of steps."""
        sparsifier = self._active()
        if self._optimizer is not None:
            sparsifier.mask_optimizer_state(self._optimizer)
        if trainer.global_step > 0 and sparsifier.step == 0:
            self._start_late(trainer.global_step)
        mask_averages(trainer, sparsifier)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the optimizer."""
        self._remove_hooks()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizer; say so if it was its step without gradients that failed."""
        if self._optimizer is not None and self.sparsifier is not None:
            self.sparsifier.apply_masks()  # the exception may have come in the middle of a step
        if self._optimizer is not None and self.sparsifier is not None and self.sparsifier.has_dropped_gradients:
            rank_zero_warn(
                f"{type(self._optimizer).__name__} failed in the step of a mask update, in which it finds no gradients "
                f"({type(exception).__name__}). It has to leave parameters without gradient alone, or else the "
                "algorithm has to update after the gradient step: subclass it with `replaces_step = False`."
            )
        self._remove_hooks()

    # ---- one step ----------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count FLOPs on the first batch if the module has no example input; see once an epoch if it is the same."""
        if batch_idx == 0:
            refuse_replaced_weights(pl_module, self._active().parameters)
            if warn_of_unfrozen(self._frozen):
                self._frozen = {}
        self._leave_counter()
        if not self.dense_flops and not is_compiled(pl_module):
            self._counter = FlopCounter(pl_module)
            self._counter.__enter__()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """The forward pass is over; in manual optimization another may follow."""
        if pl_module.automatic_optimization:
            self._stop_counter()
        sparsifier = self._active()
        if sparsifier.algorithm.needs_hessian_gradient(sparsifier.step):  # else the device need not be waited for
            # Unscaled: the product of Hessian and gradient would have the square of a GradScaler's factor.
            unscaled = unscaled_loss(trainer, loss)
            sparsifier.before_backward(unscaled, lambda tensor: trainer.strategy.reduce(tensor, reduce_op="mean"))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In manual optimization users clip before the optimizer steps, so mask before they do."""
        sparsifier = self._active()
        if not pl_module.automatic_optimization and not sparsifier.algorithm.needs_dense_gradient(sparsifier.step):
            sparsifier.mask_gradients()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer, *_: Any
    ) -> None:
        """Gradients are accumulated, reduced over ranks, unscaled and not yet clipped here."""
        if all(present is not self._optimizer for present in trainer.optimizers):
            self._follow_optimizer(trainer)
        if optimizer is self._optimizer:
            if not fused_step_overflowed(trainer, optimizer):
                self._count_cost()
            self._active().before_step(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a mask update: compare the ranks, and show what changed; not at every step if every step updates."""
        self._stop_counter()
        self._report_compute()
        if self.strict:
            self._check_invariants()
        update, previous = self._active().last_update, self._seen_update
        self._seen_update = update
        if update is previous or update is None:
            return
        if previous is None or update.step != previous.step + 1 or self._is_time_to_show(trainer, update):
            self._check_masks(trainer)
            metrics = self.metrics()
            self._log_metrics(trainer, metrics)
            density = f"{self._prefix}density"
            pl_module.log(density, metrics[density], prog_bar=True, logger=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Averaged weights are validated with the masks of now."""
        self._mask_averages_in_fit(trainer)
        self._warn_of_dense(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if the network was never made sparse: nobody wants to know its accuracy."""
        self._warn_of_dense(pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As before a test."""
        self._warn_of_dense(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Averaged weights are saved with the masks of now; a checkpoint that refers to them already sees it too."""
        self._mask_averages_in_fit(trainer)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Beside the accuracy of a checkpoint: density, FLOPs and bytes of its network, as metrics and in one line."""
        masks = self._tested_masks()
        if masks is not None:
            report = report_network(pl_module, masks, example_flops(pl_module))
            pl_module.log_dict({f"{self._prefix}{k}": v for k, v in report.metrics().items()}, sync_dist=True)
            structure = structure_of(pl_module, masks)
            rank_zero_info(f"\n{report}" if structure is None else f"\n{report}\n{structure}")

    # ---- what is shown -----------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """What is logged, as it stands now."""
        values = mask_metrics(self._active(), self.log_layers)
        if self.dense_flops:
            values["train_flops"] = self.cost.relative
            values["inference_flops"] = self._sparse_forward() / sum(self.dense_flops.values())
        return {f"{self._prefix}{key}": value for key, value in values.items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the values available to other callbacks."""
        self._mask_averages_in_fit(trainer)
        pl_module.log_dict(self.metrics(), logger=False, sync_dist=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the final values; say so if training ended before its mask updates did."""
        if self._seen_update is not None and self._seen_update.step != self._shown_step:
            self._check_masks(trainer)
        self._log_metrics(trainer, self.metrics())
        sparsifier = self._active()
        missed = [step for step in sparsifier.algorithm.update_steps() if step >= sparsifier.step]
        if missed:
            rank_zero_warn(
                f"Training ended after {sparsifier.step} steps, before {len(missed)} of the mask updates that were "
                f"planned until step {missed[-1]}."
            )

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Masks and counters as plain tensors and numbers."""
        if self.sparsifier is None:
            return self._restored or {}
        choices = self._compute_choices if self._sparse_compute is None else self._sparse_compute.state_dict()
        return {
            **self.sparsifier.state_dict(),
            "flops_spent": self.cost.spent,
            "flops_dense": self.cost.dense,
            "shown_step": self._shown_step,
            "compute_choices": choices,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep the state until the parameters are in place (`on_fit_start`)."""
        self._restored = dict(state_dict)

    # ---- parts -------------------------------------------------------------------------------------------------

    def select(self, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights of ``pl_module`` that this callback makes sparse, by name."""
        return select_parameters(pl_module, self.include, self.exclude, self.depthwise)

    def _build(self, trainer: pl.Trainer, pl_module: pl.LightningModule, parameters: dict[str, nn.Parameter]) -> None:
        before = {} if self._restored or self.algorithm.hides_inactive_weights else count_nonzero(parameters)
        self.sparsifier = self._new_sparsifier(trainer, parameters)
        warn_of_lost_topology(parameters, before)
        state, self._restored = self._restored or {}, None
        self._compute_choices = dict(state.get("compute_choices", {}))
        self._seen_update = self.sparsifier.last_update
        self._shown_step = state.get("shown_step")
        self.cost = TrainingCost(state.get("flops_spent", 0.0), state.get("flops_dense", 0.0))
        self.dense_flops = example_flops(pl_module)
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        table = layer_table(self.sparsifier.algorithm, shapes, self.sparsifier.total_steps, self.dense_flops)
        rank_zero_info(f"\n{table}")
        if state:
            rank_zero_info(f"masks restored at step {self.sparsifier.step}")

    def _new_sparsifier(self, trainer: pl.Trainer, parameters: Mapping[str, nn.Parameter]) -> Sparsifier:
        length = None if self._restored else total_steps(trainer)
        return Sparsifier(parameters, self.algorithm, length, self._seed(), self._restored)

    def _go_on(self) -> None:
        """With the masks of the previous fit."""
        sparsifier = self._active()
        sparsifier.apply_masks()
        rank_zero_info(f"The masks of the previous fit go on at step {sparsifier.step}.")
        updates = sparsifier.algorithm.update_steps()
        if len(updates) > 1 and updates[-1] < sparsifier.step:  # who prunes once means the masks to stay
            rank_zero_warn(
                f"The masks stay as they are in this fit: it goes on at step {sparsifier.step} of the previous one, "
                f"whose last mask update was at {updates[-1]}. To begin anew, make a new callback and a new network."
            )

    @contextmanager
    def _search(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
        """What a finder of learning rate or batch size tries: the network with the masks of now, or of the start."""
        parameters = self.select(pl_module)
        optimizer, in_fit = optimizer_of(trainer, parameters), self._optimizer is not None
        if in_fit or (self._restored is None and self._continues(parameters)):
            masks = self._active().masks
        else:
            copies = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
            masks = self._new_sparsifier(trainer, copies).masks
        if self._post_hook is not None:
            self._post_hook.remove()
        try:
            with held_sparse(parameters, masks, optimizer):
                yield
        finally:
            if in_fit:
                self._restored = None  # the finder has loaded what it saved
                self._hook_optimizer()

    def _hook_optimizer(self) -> None:
        # The optimizer's own hook: before any other callback sees the weights, and only after real steps.
        if self._optimizer is not None:
            self._post_hook = self._optimizer.register_step_post_hook(lambda opt, *_: self._active().after_step(opt))

    def _follow_optimizer(self, trainer: pl.Trainer) -> None:
        """The Trainer's optimizers were made anew during fit."""
        if self._post_hook is not None:
            self._post_hook.remove()
        self._optimizer = optimizer_of(trainer, self._active().parameters)
        self._hook_optimizer()

    def _install_compute(self, pl_module: pl.LightningModule) -> None:
        compute = self.compute
        if compute != "dense" and is_compiled(pl_module):
            compute = "dense"
            if self.compute == "sparse":
                rank_zero_warn("compute='sparse': the module goes through torch.compile, and stays dense.")
        self._sparse_compute = SparseCompute(pl_module, self._active(), compute, self._compute_choices)
        self._sparse_compute.install()

    def _report_compute(self) -> None:
        """After the first batch every layer has been called; and when the choice for a layer has changed."""
        compute = self._sparse_compute
        if compute is None or compute.compute == "dense":
            return
        ways = {layer.name: layer.is_sparse for layer in compute.layers if layer.was_called}
        if ways == self._compute_shown:
            return
        dense = dense_layers(compute)
        if self._compute_shown is None and self.compute == "sparse" and dense:
            rank_zero_warn(f"compute='sparse': these layers are dense: {', '.join(dense)}.")
        self._compute_shown = ways
        rank_zero_info(f"\n{compute_table(compute)}")

    def _continues(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Whether this fit goes on with the network of the previous one."""
        previous = {} if self.sparsifier is None else self.sparsifier.parameters
        return previous.keys() == parameters.keys() and all(previous[name] is parameters[name] for name in previous)

    def _tested_masks(self) -> Mapping[str, torch.Tensor] | None:
        """Masks of the network that is tested: the checkpoint's, else those of the training before, if any."""
        if self._restored and "masks" in self._restored:
            return unpack_masks(self._restored["masks"])
        return None if self.sparsifier is None else self.sparsifier.masks

    def _warn_of_dense(self, pl_module: pl.LightningModule) -> None:
        if self._tested_masks() is None:
            warn_of_dense(pl_module, self.select, self.algorithm)

    def _active(self) -> Sparsifier:
        if self.sparsifier is None:
            raise RuntimeError("SparseTrainingCallback has no masks yet: they are made when fit starts.")
        return self.sparsifier

    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def _sparse_forward(self) -> float:
        return sparse_forward_flops(self.dense_flops, self._active().density())

    def _count_cost(self) -> None:
        sparsifier = self._active()
        if self.dense_flops:
            weight_gradient = sparse_forward_flops(self.dense_flops, sparsifier.weight_gradient_density())
            self.cost.add(self._sparse_forward(), weight_gradient, sum(self.dense_flops.values()))

    def _check_invariants(self) -> None:
        broken = violations(self._active(), self._optimizer)
        if broken:
            raise RuntimeError(f"After {self._active().step} steps (strict=True): {'; '.join(broken)}.")

    def _start_late(self, step: int) -> None:
        """Begin at ``step`` of a training whose checkpoint has no masks."""
        updates = self._active().algorithm.update_steps()
        if updates and updates[-1] < step:
            raise ValueError(
                f"Expected mask updates after step {step}, where the checkpoint continues, but the last is at "
                f"{updates[-1]}, so the network would never become what was asked for. Start from the weights alone "
                "(load_state_dict), or set the end of the schedule later."
            )
        rank_zero_warn(
            f"The checkpoint holds no masks of {self.state_key}: sparse training starts with new masks at step {step}. "
            "To start from a sparse network, use FixedMasks with its checkpoint."
        )
        self._active().step = step

    def _refuse_shared_optimizer(self, trainer: pl.Trainer) -> None:
        for other in callbacks_of(trainer):
            if other is not self and getattr(other, "_optimizer", None) is self._optimizer:
                raise ValueError(
                    f"Expected an optimizer of its own for each SparseTrainingCallback, got one for {self.state_key} "
                    "and another. Use one callback for both, or two optimizers."
                )

    @property
    def _prefix(self) -> str:
        return f"sparse/{self.name}/" if self.name else "sparse/"

    def _stop_counter(self) -> None:
        """The forward pass is complete: keep its count."""
        if self._counter is not None:
            self.dense_flops = dict(self._counter.flops)
        self._leave_counter()

    def _leave_counter(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None

    def _is_time_to_show(self, trainer: pl.Trainer, update: MaskUpdate) -> bool:
        """Among updates at consecutive steps."""
        every = trainer.log_every_n_steps or math.inf  # type: ignore[attr-defined]  # 0: never
        return self._shown_step is None or update.step - self._shown_step >= every

    def _check_masks(self, trainer: pl.Trainer) -> None:
        """Compare the masks of all processes, and bring averaged weights into line."""
        compare_ranks(trainer, self._active())
        mask_averages(trainer, self._active())
        update = self._active().last_update
        self._shown_step = None if update is None else update.step

    def _mask_averages_in_fit(self, trainer: pl.Trainer) -> None:
        if self._optimizer is not None:  # not while something else is validated or saved
            mask_averages(trainer, self._active())

    def _log_metrics(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        # Not through self.log: values of rare steps would land at the next multiple of log_every_n_steps.
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)

    def _remove_hooks(self) -> None:
        self._leave_counter()
        self._release_finders()
        if self._undo_clipping is not None:
            self._undo_clipping()
        if self._sparse_compute is not None:
            self._compute_choices = self._sparse_compute.state_dict()
            self._sparse_compute.remove()
        self._sparse_compute, self._compute_shown = None, None
        if self._post_hook is not None:
            self._post_hook.remove()
        self._post_hook = self._optimizer = self._undo_clipping = None
        self._frozen = {}

    def _release_finders(self) -> None:
        if self._finders is not None:
            self._finders.undo()
        self._finders = None
