"""What becomes of the dense gradient of a compact layer: kept for the step, or looked at once and let go."""

from __future__ import annotations

import math

from torch import Tensor

from rigl_lightning.base.errors import StateError
from rigl_lightning.kernels.stored_types import TakeGradient
from rigl_lightning.sparsity.algorithms.drop_grow import n_update
from rigl_lightning.sparsity.compact_weights import CompactWeights
from rigl_lightning.sparsity.needed_gradients import needs_dense_gradient
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.streamed_growth import StreamedUpdate, can_stream

_PIECE = 1 << 24
"""Gradients that exist at a time: 64 MB."""


def taker(sparsifier: Sparsifier, name: str, keeps: bool = True) -> TakeGradient | None:
    """What a compact layer gives its dense gradient to, in a forward pass of this step; None if nobody reads it.

    Args:
        sparsifier: As it is now.
        name: Of the layer's weight.
        keeps: Keep it until the step is over. Otherwise what `can_stream` looks at it in pieces and lets it go; then
            there can be one backward pass of the layer in a step.
    """
    if not needs_dense_gradient(sparsifier):
        return None
    compact, algorithm = sparsifier.compact, sparsifier.algorithm
    if keeps or not can_stream(algorithm):
        return GradientTaker(compact, name)
    fraction = algorithm.drop_fraction_at(sparsifier.step)
    return StreamingTaker(compact, name, n_update(compact[name].n_active, fraction))


class GradientTaker:
    """Keeps the gradient of a layer until the step is over, see `HandedGradients`.

    Args:
        compact: Where to.
        name: Of the layer.
    """

    def __init__(self, compact: CompactWeights, name: str) -> None:
        self._compact, self._name = compact, name

    @property
    def rows_at_once(self) -> int:
        """All."""
        return self._compact[self._name].shape[0]

    def __call__(self, first_row: int, rows: Tensor) -> None:
        """Take the gradient as a whole."""
        weight = self._compact[self._name]
        self._compact.gradients.hand_over(self._name, weight.parameter, weight.pattern, rows)


class StreamingTaker:
    """Makes the mask update of a layer while its gradient comes by rows.

    Args:
        compact: Where to.
        name: Of the layer.
        n_update: Connections to move.
    """

    def __init__(self, compact: CompactWeights, name: str, n_update: int) -> None:
        self._compact, self._name, self._n_update = compact, name, n_update

    @property
    def rows_at_once(self) -> int:
        """As many as make a piece."""
        return max(1, _PIECE // math.prod(self._compact[self._name].shape[1:]))

    def __call__(self, first_row: int, rows: Tensor) -> None:
        """Take some rows.

        Raises:
            RuntimeError: If there was a backward pass of the layer before, in the same step.
        """
        compact, weight = self._compact, self._compact[self._name]
        if first_row == 0:
            if compact.goes_on(self._name) and self._name in compact.updates:
                raise StateError(
                    f"Expected one backward pass of {self._name!r} in the step of a mask update, got another: where a "
                    "network stores connections only, dense gradients are let go, and cannot be added up. Set "
                    "`storage` of SparseTrainingCallback to auto, or accumulate no gradients and call each layer once."
                )
            compact.updates[self._name] = StreamedUpdate(weight.parameter, weight.positions(), self._n_update)
        compact.updates[self._name].add(first_row * math.prod(weight.shape[1:]), rows)
