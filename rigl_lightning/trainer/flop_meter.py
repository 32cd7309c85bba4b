"""FLOP meter: what a forward pass of the dense network costs, and what the training has cost so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.sparsity.costs.flops import FlopCounter, flops_per_sample, sparse_forward_flops, training_flops
from rigl_lightning.sparsity.mask_update import MaskUpdate
from rigl_lightning.sparsity.needed_gradients import weight_gradient_density
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.compiled import is_compiled


@dataclass
class TrainingCost:
    """Training FLOPs so far, relative to the dense network's for the same steps.

    >>> cost = TrainingCost()
    >>> cost.add(forward=1.0, weight_gradient=10.0, dense_forward=10.0)
    >>> cost.relative  # (2 · 1 + 10) / 30
    0.4
    """

    spent: float = 0.0
    dense: float = 0.0

    def add(self, forward: float, weight_gradient: float, dense_forward: float) -> None:
        """Count one step; the arguments are those of `training_flops`, for the sparse and for the dense network."""
        self.spent += training_flops(forward, weight_gradient)
        self.dense += training_flops(dense_forward, dense_forward)

    @property
    def relative(self) -> float:
        """Fraction of the dense network's FLOPs; 1 before the first step."""
        return self.spent / self.dense if self.dense else 1.0


class _StepCost(NamedTuple):
    """What a step costs while masks stay as they are."""

    of: dict[str, float]
    last_update: MaskUpdate | None
    is_dense: bool
    flops: tuple[float, float, float]

    def holds_for(self, of: dict[str, float], last_update: MaskUpdate | None, is_dense: bool) -> bool:
        return self.of is of and self.last_update is last_update and self.is_dense == is_dense


class FlopMeter:
    """Counts the FLOPs of a training, from those of one forward pass of the dense network.

    These are counted on the module's ``example_input_array``, or else during the forward pass of the first batch.

    Attributes:
        dense: Forward FLOPs of each weight per sample when dense; empty until they are known.
        cost: Of the steps so far.
    """

    def __init__(self) -> None:
        self.dense: dict[str, float] = {}
        self.cost = TrainingCost()
        self._counter: FlopCounter | None = None
        self._known: _StepCost | None = None

    def begin(self, pl_module: pl.LightningModule) -> dict[str, float]:
        """Count a new network, if it has an example input; what has been spent stays."""
        self.dense = example_flops(pl_module)
        return self.dense

    def watch(self, pl_module: pl.LightningModule) -> None:
        """Count the forward pass that follows, if nothing is known yet and no compiler would see it."""
        self.release()
        if not self.dense and not is_compiled(pl_module):
            self._counter = FlopCounter(pl_module)
            self._counter.__enter__()

    def keep(self) -> None:
        """The forward pass is complete: keep its count, unless its batch was empty."""
        if self._counter is not None and any(self._counter.flops.values()):
            self.dense = dict(self._counter.flops)
        self.release()

    def release(self) -> None:
        """Count no further."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None

    def add_step(self, sparsifier: Sparsifier) -> None:
        """Add the cost of the step that is being made."""
        if not self.dense:
            return
        # Densities stay from one mask update to the next, and a network may have hundreds of layers.
        is_dense = sparsifier.algorithm.needs_dense_gradient(sparsifier.step)
        known = self._known
        if known is None or not known.holds_for(self.dense, sparsifier.last_update, is_dense):
            weight_gradient = sparse_forward_flops(self.dense, weight_gradient_density(sparsifier))
            flops = self._forward(sparsifier), weight_gradient, sum(self.dense.values())
            known = self._known = _StepCost(self.dense, sparsifier.last_update, is_dense, flops)
        self.cost.add(*known.flops)

    def metrics(self, sparsifier: Sparsifier) -> dict[str, float]:
        """``train_flops`` so far and ``inference_flops`` of now, relative to the dense network; or nothing."""
        if not self.dense:
            return {}
        inference = self._forward(sparsifier) / sum(self.dense.values())
        return {"train_flops": self.cost.relative, "inference_flops": inference}

    def state_dict(self) -> dict[str, float]:
        """What has been spent."""
        return {"flops_spent": self.cost.spent, "flops_dense": self.cost.dense}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or from zero with an empty state."""
        self.cost = TrainingCost(state.get("flops_spent", 0.0), state.get("flops_dense", 0.0))
        self._known = None

    def _forward(self, sparsifier: Sparsifier) -> float:
        return sparse_forward_flops(self.dense, sparsifier.density())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_counter": None, "_known": None}


def example_flops(pl_module: pl.LightningModule) -> dict[str, float]:
    """Forward FLOPs of every weight per sample, counted on ``example_input_array``; empty if that is not possible."""
    example = pl_module.example_input_array
    if example is None:
        return {}
    # As Lightning passes it on: a dict by name, a tuple or list by position.
    kwargs = example if isinstance(example, dict) else {}
    args = () if kwargs else tuple(example) if isinstance(example, tuple | list) else (example,)
    try:
        return flops_per_sample(pl_module, *args, **kwargs)
    except Exception as error:  # any user's forward; training itself does not depend on it
        rank_zero_warn(
            f"FLOPs cannot be counted on example_input_array ({error}); they are counted on the first batch.",
            category=SparseTrainingWarning,
        )
        return {}
