"""Growth into units without a connection, whose gradients batch norm magnifies: told once a layer.

Batch norm divides by the standard deviation of a unit's outputs. A unit without an incoming connection has none, and
its gradients are magnified by 1 / sqrt(eps), 316 by default; so is its first step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.sparsity.layouts import rows_are_units
from rigl_lightning.sparsity.scores import Connections

MAGNIFIED = 20.0
"""Gradients of units without connections that are so many times those of others are called magnified."""


class DeadUnits:
    """Watches mask updates, and the gradients of the next step where an update reads none."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._awaited: dict[str, tuple[Tensor, int]] = {}

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
        if name in self._told or layer.weight.ndim < 2:
            return
        mask, new_mask = (rows_are_units(tensor, layer.inputs_first) for tensor in (layer.mask, new_mask))
        dead = ~mask.flatten(1).any(1)
        grown_into = dead & new_mask.flatten(1).any(1)
        if not bool(grown_into.any()) or bool(dead.all()):
            return
        if layer.dense_grad is None:  # a random growth, say: the connections begin at zero, so the next step tells
            self._awaited[name] = grown_into, step
            return
        sizes = rows_are_units(layer.dense_grad, layer.inputs_first).abs().flatten(1).mean(1)
        self._compare(name, sizes, grown_into, ~dead, step)

    def see_gradients(self, sizes_of: Callable[[str], Tensor | None]) -> None:
        """Look at the gradients of the layers that an update grew in without reading any.

        Args:
            sizes_of: Name of a layer -> mean magnitude of the gradient of each unit's active connections, (units,).
        """
        awaited, self._awaited = self._awaited, {}
        for name, (grown_into, step) in awaited.items():
            sizes = sizes_of(name)
            if sizes is not None:
                self._compare(name, sizes, grown_into, ~grown_into & sizes.isfinite(), step)

    def _compare(self, name: str, sizes: Tensor, grown_into: Tensor, others: Tensor, step: int) -> None:
        smallest = torch.finfo(sizes.dtype).tiny
        factor = float(sizes[grown_into].mean() / sizes[others].mean().clamp(min=smallest))
        if not MAGNIFIED < factor < math.inf:
            return
        self._told.add(name)
        warnings.warn(
            f"The mask update at step {step} grows into {int(grown_into.sum())} units of layer {name!r} that have no "
            f"connection, and gradients {factor:.0f} times those of others, as batch norm makes them. Their first "
            "steps will be as large: clip the gradients, or set a larger eps in the batch norm "
            "(docs/troubleshooting.md).",
            stacklevel=2,
            category=SparseTrainingWarning,
        )
