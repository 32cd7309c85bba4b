"""Growth into units without a connection, whose gradients batch norm magnifies: told once a layer.

Batch norm divides by the standard deviation of a unit's outputs. A unit without an incoming connection has none, and
its gradients are magnified by 1 / sqrt(eps), 316 by default; so is its first step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.sparsity.layouts import rows_are_units, rows_of
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.statistics import live_units

MAGNIFIED = 20.0
"""Gradients of units without connections that are so many times those of others are called magnified."""


class _Growth(NamedTuple):
    """Units without a connection that an update has grown into, and how much larger gradients are there."""

    units: Tensor
    step: int
    factor: Tensor


class DeadUnits:
    """Watches mask updates, and the gradients of the next step where an update reads none.

    That step waits for no device: what was measured there is told at the next update.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._awaited: dict[str, tuple[Tensor, int]] = {}
        self._noted: dict[str, _Growth] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether an update has read no gradients, and those of the next step are to be looked at."""
        return bool(self._awaited)

    def see_update(self, name: str, layer: Connections, new_mask: Tensor, step: int) -> None:
        """Look at an update before it is made.

        Args:
            name: Of the layer.
            layer: As the update sees it.
            new_mask: What the update makes of its mask.
            step: Of the update.
        """
        self._tell(name)
        if name in self._told or layer.weight.ndim < 2:
            return
        dead = ~live_units(rows_are_units(layer.mask, layer.inputs_first))
        if not bool(dead.any()) or bool(dead.all()):
            return
        grown_into = dead & live_units(rows_are_units(new_mask, layer.inputs_first))
        if not bool(grown_into.any()):
            return
        if layer.dense_grad is None:  # a random growth, say: the connections begin at zero, so the next step tells
            self._awaited[name] = grown_into, step
            return
        sizes = rows_of(rows_are_units(layer.dense_grad, layer.inputs_first).abs()).mean(1)
        self._noted[name] = _Growth(grown_into, step, _factor(sizes, grown_into, ~dead))
        self._tell(name)

    def see_gradients(self, sizes_of: Callable[[str], Tensor | None]) -> None:
        """Look at the gradients of the layers that an update grew in without reading any.

        Args:
            sizes_of: Name of a layer -> mean magnitude of the gradient of each unit's active connections, (units,).
        """
        awaited, self._awaited = self._awaited, {}
        for name, (grown_into, step) in awaited.items():
            sizes = sizes_of(name)
            if sizes is not None:
                factor = _factor(sizes, grown_into, ~grown_into & sizes.isfinite())
                self._noted[name] = _Growth(grown_into, step, factor)
                if sizes.device.type == "cpu":
                    self._tell(name)

    def _tell(self, name: str) -> None:
        """Say what was measured of a layer; a device is waited for."""
        growth = self._noted.pop(name, None)
        if growth is None or not MAGNIFIED < float(growth.factor) < math.inf:
            return
        self._told.add(name)
        warnings.warn(
            f"The mask update at step {growth.step} grows into {int(growth.units.sum())} units of layer {name!r} that "
            f"have no connection, and gradients {float(growth.factor):.0f} times those of others, as is usual before a "
            "batch norm. Their first steps will be as large: clip the gradients, or set a larger eps in the batch norm "
            "if there is one (docs/troubleshooting.md).",
            stacklevel=2,
            category=SparseTrainingWarning,
        )


def _factor(sizes: Tensor, units: Tensor, others: Tensor) -> Tensor:
    """Mean of some of the sizes, divided by that of others; all are (units,), and none is read.

    Not finite where the others are zero: that says nothing of the size of the first.
    """
    mean, of_others = (torch.where(which, sizes, 0).sum() / which.sum() for which in (units, others))
    return mean / of_others
