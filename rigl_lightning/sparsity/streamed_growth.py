"""RigL's mask update of a layer whose dense gradient arrives in pieces, so that it never exists as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import SparseAlgorithm
from rigl_lightning.sparsity.algorithms.drop_grow import DropGrow
from rigl_lightning.sparsity.selection import largest, smallest
from rigl_lightning.sparsity.structures import Unstructured


def can_stream(algorithm: SparseAlgorithm) -> bool:
    """Whether the updates of an algorithm are RigL's as the paper has them, whatever the schedule.

    >>> from rigl_lightning.sparsity.algorithms import RigL, SET
    >>> can_stream(RigL()), can_stream(SET())
    (True, False)
    """
    return (
        isinstance(algorithm, DropGrow)
        and algorithm.follows_scores
        and algorithm.replaces_step
        and algorithm.min_fan_in == 0
        and algorithm.ramp is None
        and (algorithm.drop_score, algorithm.grow_score) == (scores.weight_magnitude, scores.gradient_magnitude)
        and type(algorithm.structure) is Unstructured
        and algorithm.grow_init is None
    )


class StreamedUpdate:
    """Drop and grow of one layer: `add` the gradient piece by piece, in order, then ask for the `positions`.

    What `masks.drop_and_grow` would choose from the whole.

    Args:
        values: Weights of the active connections, (n_active,).
        active: Their positions in the flattened weight, ascending.
        n_update: Connections to move.

    Attributes:
        is_finite: Whether all that was added is.

    >>> update = StreamedUpdate(torch.tensor([0.5, 0.1]), torch.tensor([0, 3]), 1)
    >>> update.add(0, torch.tensor([9.0, -2.0]))
    >>> update.add(2, torch.tensor([1.0, 0.5]))
    >>> update.positions()
    tensor([0, 1])
    """

    def __init__(self, values: Tensor, active: Tensor, n_update: int) -> None:
        magnitudes = values.detach().abs()
        kept = torch.ones_like(magnitudes, dtype=torch.bool)
        kept[smallest(magnitudes, n_update, kept)] = False
        self._active, self._survivors, self._count = active, active[kept], n_update
        self._scores, self._positions = magnitudes.new_empty(0), active.new_empty(0)
        self.is_finite = True

    def add(self, first: int, gradient: Tensor) -> None:
        """Take the gradients of the positions from ``first`` on."""
        score = gradient.detach().reshape(-1).abs()
        self.is_finite = self.is_finite and bool(score.sum().isfinite() or score.isfinite().all())
        if not self.is_finite or self._count == 0:
            return
        inside = torch.tensor([first, first + score.numel()])
        start, end = torch.searchsorted(self._survivors, inside).tolist()
        score[self._survivors[start:end] - first] = -1  # below any magnitude
        if self._scores.numel() == self._count:  # of equals the first wins, and all that come now are later
            at = (score > self._scores.min()).nonzero().view(-1)
        else:
            at = largest(score, min(self._count, score.numel() - (end - start)))
        together = torch.cat([self._scores, score[at]]), torch.cat([self._positions, at + first])
        best = largest(together[0], min(self._count, together[0].numel()))
        self._scores, self._positions = together[0][best], together[1][best]

    def positions(self) -> Tensor:
        """The active connections of the new mask, ascending."""
        return torch.cat([self._survivors, self._positions]).sort().values

    def n_grown_blindly(self) -> int:
        """New connections whose gradient is exactly zero."""
        place = torch.searchsorted(self._active, self._positions).clamp_(max=max(self._active.numel() - 1, 0))
        is_new = self._active[place] != self._positions
        return int(((self._scores == 0) & is_new).sum())
