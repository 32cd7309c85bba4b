"""Metrics: what is logged of the masks, and at which of their updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from rigl_lightning.base.errors import SparseTrainingError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.reports.network import describe_network
from rigl_lightning.sparsity.files.masks import unpack_masks
from rigl_lightning.sparsity.layouts import is_inputs_first, rows_are_units, shapes_of
from rigl_lightning.sparsity.sparsifier import MaskUpdate, Sparsifier
from rigl_lightning.sparsity.statistics import dead_units, hamming_distance, survival
from rigl_lightning.trainer.flop_meter import example_flops


def mask_metrics(sparsifier: Sparsifier, by_layer: bool = False) -> dict[str, float]:
    """What is logged of the masks as they are now.

    Args:
        sparsifier: A Sparsifier with any algorithm.
        by_layer: Also ``density/<layer>``, ``survival/<layer>``, ``dead_units/<layer>``, and where the algorithm plans
            layers ``target/<layer>``: the density that it plans for this moment, before connections are counted.

    Returns:
        ``density``; ``churn``, ``drop_fraction`` and ``blind_growth`` of the last update (see `MaskUpdate`);
        ``exploration``: fraction of all connections that were ever active; ``survival``: fraction of the first
        connections that are active now; ``hamming_distance``: fraction of all entries that differ from the first masks;
        ``dead_units``: number of units without an incoming connection.
    """
    masks, update = sparsifier.masks, sparsifier.last_update
    first = {name: mask.to(masks[name].device) for name, mask in sparsifier.network.first_masks().items()}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    survivals = {name: survival(first[name], mask) for name, mask in masks.items()}
    distances = {name: hamming_distance(first[name], mask) for name, mask in masks.items()}
    inputs_first = {name: is_inputs_first(parameter) for name, parameter in sparsifier.parameters.items()}
    dead = {name: dead_units(rows_are_units(mask, inputs_first[name])) for name, mask in masks.items()}
    metrics = {
        "density": sparsifier.total_density(),
        "churn": update.churn if update else 0.0,
        "drop_fraction": update.drop_fraction if update else 0.0,
        "blind_growth": update.blind_growth if update else 0.0,
        "exploration": sparsifier.exploration(),
        "survival": _mean(survivals, {name: count_active(mask) for name, mask in first.items()}),
        "hamming_distance": _mean(distances, sizes),
        "dead_units": float(sum(dead.values())),
    }
    if by_layer:
        layers: dict[str, Mapping[str, float]] = {"density": sparsifier.density(), "survival": survivals}
        layers["target"] = _targets(sparsifier)
        for key, values in {**layers, "dead_units": dead}.items():
            metrics.update({f"{key}/{name}": float(value) for name, value in values.items()})
    return metrics


def _targets(sparsifier: Sparsifier) -> dict[str, float]:
    algorithm = sparsifier.algorithm
    if not algorithm.has_planned_layers():
        return {}
    try:
        planned = algorithm.layer_sparsities(shapes_of(sparsifier.parameters), sparsifier.step)
    except SparseTrainingError:  # the file of a ticket is gone, which nothing else needs once training has begun
        return {}
    return {name: 1 - sparsity for name, sparsity in planned.items()}


def log_network(pl_module: pl.LightningModule, masks: Mapping[str, Any], prefix: str) -> None:
    """Log density, FLOPs and bytes of a tested network, and show them in one line.

    Args:
        pl_module: Tested now.
        masks: Packed, as in a checkpoint.
        prefix: Of the names of the metrics.
    """
    values, text = describe_network(pl_module, unpack_masks(masks), example_flops(pl_module))
    pl_module.log_dict({f"{prefix}{key}": value for key, value in values.items()}, sync_dist=True)
    rank_zero_info(f"\n{text}")


def _mean(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    return sum(values[name] * weights[name] for name in values) / max(sum(weights.values()), 1)


class MaskLog:
    """Which mask updates have been seen, and which of them were shown.

    All are, but of updates at consecutive steps only one in ``log_every_n_steps``.

    Attributes:
        shown: Step of the last update that was shown, or None.
    """

    def __init__(self) -> None:
        self.shown: int | None = None
        self._seen: MaskUpdate | None = None

    def is_news(self, trainer: pl.Trainer, update: MaskUpdate | None) -> bool:
        """Whether the last update is one to show now; it has been seen with this question."""
        previous, self._seen = self._seen, update
        if update is None or update == previous:
            return False
        return previous is None or update.step != previous.step + 1 or self._is_time(trainer, update)

    def is_behind(self) -> bool:
        """Whether the last update was seen and not shown."""
        return self._seen is not None and self._seen.step != self.shown

    def note_shown(self) -> None:
        """The last update is shown."""
        self.shown = None if self._seen is None else self._seen.step

    def state_dict(self) -> dict[str, Any]:
        """The step of the last update that was shown."""
        return {"shown_step": self.shown}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or anew with an empty state."""
        update = state.get("last_update")
        self.shown, self._seen = state.get("shown_step"), MaskUpdate(*update) if update else None

    def _is_time(self, trainer: pl.Trainer, update: MaskUpdate) -> bool:
        every = trainer.log_every_n_steps or math.inf  # type: ignore[attr-defined]  # 0: never
        return self.shown is None or update.step - self.shown >= every


def log_now(trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    """Give the metrics to all loggers at this step; through ``self.log`` they would wait for ``log_every_n_steps``."""
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # the x-axis of what ``self.log`` logs
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
