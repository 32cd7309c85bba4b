"""How the sparse layers are computed during a fit: started, shown to the user, stopped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.compute import (
    Compute,
    SparseCompute,
    Storage,
    check_compute,
    check_storage,
    compute_table,
    dense_layers,
    densely_stored,
    whole_step_line,
)
from rigl_lightning.sparsity.compact_weights import is_elementwise
from rigl_lightning.trainer.compiled import is_compiled
from rigl_lightning.trainer.flavours import callbacks_of
from rigl_lightning.trainer.optimizers import StepHook

_READS_NO_WEIGHTS = ("pytorch_lightning.", "lightning.pytorch.", "rigl_lightning.")
_READS_WEIGHTS = {"LambdaCallback", "OnExceptionCheckpoint"}


class FitCompute:
    """A `SparseCompute` for the length of each fit.

    Args:
        compute: What the user asked for.
        storage: The same, of the storage of weights.

    Attributes:
        running: That of the fit that is going on, or None.
    """

    def __init__(self, compute: Compute, storage: Storage) -> None:
        check_compute(compute)
        check_storage(storage, compute)
        self.compute = compute
        self.storage = storage
        self.running: SparseCompute | None = None
        self._choices: dict[str, Any] = {}
        self._shown: dict[str, bool] | None = None
        self._whole_shown = False

    def start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, hook: StepHook) -> None:
        """Have the layers of the module computed and stored as asked for, from the first forward pass on."""
        assert hook.sparsifier is not None
        compute, storage = self.compute, self.storage
        if compute != "dense" and is_compiled(pl_module):
            compute = "dense"
            if self.compute == "sparse":
                rank_zero_warn(
                    "compute='sparse': the module goes through torch.compile, and stays dense.",
                    category=SparseTrainingWarning,
                )
        storage = "dense" if compute == "dense" else storage
        why_dense = _why_dense(trainer, hook.optimizer, storage)
        self.running = SparseCompute(pl_module, hook.sparsifier, compute, self._choices, storage, why_dense)
        self.running.install(compact=False)

    def dense_weights(self) -> AbstractContextManager[None]:
        """Within, weights are stored densely."""
        return nullcontext() if self.running is None else self.running.dense_weights()

    def report(self) -> None:
        """Show which layers are sparse: after the first batch, when each was called, and when a choice has changed."""
        running = self.running
        if running is None or running.compute == "dense":
            return
        whole = whole_step_line(running)
        if whole and not self._whole_shown:
            self._whole_shown = True
            rank_zero_info(whole)
        now = {layer.name: layer.is_sparse for layer in running.layers if layer.was_called}
        if now == self._shown:
            return
        dense = dense_layers(running)
        if self._shown is None and self.compute == "sparse" and dense:
            rank_zero_warn(
                f"compute='sparse': these layers are dense: {', '.join(dense)}.", category=SparseTrainingWarning
            )
        stored = densely_stored(running)
        if self._shown is None and self.storage == "connections" and stored:
            rank_zero_warn(
                f"storage='connections': these weights are stored densely: {', '.join(stored)}.",
                category=SparseTrainingWarning,
            )
        self._shown = now
        rank_zero_info(f"\n{compute_table(running)}")

    def release(self) -> None:
        """Give the layers their own computation back; the choices are kept for the next fit."""
        if self.running is not None:
            self._choices = self.running.state_dict()
            self.running.remove()
        self.running, self._shown, self._whole_shown = None, None, False

    def state_dict(self) -> dict[str, Any]:
        """The choices made so far."""
        return {"compute_choices": self._choices if self.running is None else self.running.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compute as in a checkpoint, or choose anew with an empty state."""
        self._choices = dict(state.get("compute_choices", {}))

    def __getstate__(self) -> dict[str, Any]:
        return {
            **vars(self),
            "running": None,
            "_shown": None,
            "_whole_shown": False,
            "_choices": self.state_dict()["compute_choices"],
        }


def _why_dense(trainer: pl.Trainer, optimizer: Optimizer, storage: Storage) -> str:
    """Why no weight can be stored as connections in this fit, or ""."""
    if not is_elementwise(optimizer):
        return f"{type(optimizer).__name__} is not known to update every element by itself"
    for callback in callbacks_of(trainer):
        name = type(callback).__name__
        if hasattr(callback, "_average_model"):
            return f"{name} averages the weights"
        is_known = type(callback).__module__.startswith(_READS_NO_WEIGHTS) and name not in _READS_WEIGHTS
        if storage == "auto" and not is_known:
            return f"{name} may read the weights"
    return ""
