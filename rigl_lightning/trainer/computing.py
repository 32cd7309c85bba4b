"""How the sparse layers are computed during a fit: started, shown to the user, stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from rigl_lightning.compute import Compute, SparseCompute, check_compute, compute_table, dense_layers
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.compiled import is_compiled


class FitCompute:
    """A `SparseCompute` for the length of each fit.

    Args:
        compute: What the user asked for.

    Attributes:
        running: That of the fit that is going on, or None.
    """

    def __init__(self, compute: Compute) -> None:
        check_compute(compute)
        self.compute = compute
        self.running: SparseCompute | None = None
        self._choices: dict[str, Any] = {}
        self._shown: dict[str, bool] | None = None

    def start(self, pl_module: pl.LightningModule, sparsifier: Sparsifier) -> None:
        """Have the layers of the module computed as asked for."""
        compute = self.compute
        if compute != "dense" and is_compiled(pl_module):
            compute = "dense"
            if self.compute == "sparse":
                rank_zero_warn("compute='sparse': the module goes through torch.compile, and stays dense.")
        self.running = SparseCompute(pl_module, sparsifier, compute, self._choices)
        self.running.install()

    def report(self) -> None:
        """Show which layers are sparse: after the first batch, when each was called, and when a choice has changed."""
        running = self.running
        if running is None or running.compute == "dense":
            return
        now = {layer.name: layer.is_sparse for layer in running.layers if layer.was_called}
        if now == self._shown:
            return
        dense = dense_layers(running)
        if self._shown is None and self.compute == "sparse" and dense:
            rank_zero_warn(f"compute='sparse': these layers are dense: {', '.join(dense)}.")
        self._shown = now
        rank_zero_info(f"\n{compute_table(running)}")

    def release(self) -> None:
        """Give the layers their own computation back; the choices are kept for the next fit."""
        if self.running is not None:
            self._choices = self.running.state_dict()
            self.running.remove()
        self.running, self._shown = None, None

    def state_dict(self) -> dict[str, Any]:
        """The choices made so far."""
        return {"compute_choices": self._choices if self.running is None else self.running.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compute as in a checkpoint, or choose anew with an empty state."""
        self._choices = dict(state.get("compute_choices", {}))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "running": None, "_shown": None, "_choices": self.state_dict()["compute_choices"]}
