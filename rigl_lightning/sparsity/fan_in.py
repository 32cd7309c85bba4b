"""A minimum fan-in: choices that leave every unit so many incoming connections."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.layouts import rows_of
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.selection import below_infinity, largest_per_row, smallest


def with_minimum_fan_in(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, minimum: int
) -> tuple[Tensor, Tensor, int]:
    """Scores with which `masks.drop_and_grow` keeps units alive, and how many connections to move.

    The best connections of a unit, up to the minimum, are dropped last. Units that have fewer grow first, the best of
    them by the grow score, as far as the number of moved connections goes; the count of the layer stays exact.

    Args:
        mask: Boolean; units are its first dimension.
        drop_score: Same shape. Low is dropped.
        grow_score: Same shape. High is grown.
        n_update: Connections to move; fewer are moved where all others are among the best of their unit.
        minimum: Incoming connections that a unit should have, at least 1.

    >>> mask = torch.tensor([[True, True, True, False], [True, False, False, False], [False] * 4])
    >>> weight = torch.tensor([[3.0, 2.0, 4.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4])
    >>> gradient = torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 5.0, 0.0, 0.0], [0.1, 0.2, 0.0, 0.0]])
    >>> from rigl_lightning.sparsity.masks import drop_and_grow
    >>> drop, grow, n = with_minimum_fan_in(mask, weight, gradient, 1, 1)
    >>> drop_and_grow(mask, drop, grow, n).int().tolist()  # not 1.0, the last of its unit; and not where 9.0 is
    [[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    """
    rows, drop_rows, grow_rows = map(rows_of, (mask, below_infinity(drop_score), below_infinity(grow_score)))
    kept_count = rows.sum(1).clamp(max=minimum)
    best = largest_per_row(drop_rows, kept_count, rows)
    n_update = min(n_update, count_active(rows) - count_active(best))
    drop_rows = drop_rows.masked_fill_(best, torch.inf)
    survivors = rows.reshape(-1).clone()
    survivors[smallest(drop_rows, n_update, rows)] = False
    survivors = survivors.view_as(rows)
    missing = (minimum - survivors.sum(1)).clamp(min=0)
    missing = torch.minimum(missing, (~survivors).sum(1))
    first = largest_per_row(grow_rows, missing, ~survivors)
    if count_active(first) > n_update:  # by score: a number added to all of them would swallow small ones
        first = topk_mask(grow_rows, n_update, first)
    grow_rows = grow_rows.masked_fill_(first, torch.inf)
    return drop_rows.view(mask.shape), grow_rows.view(mask.shape), n_update


def topk_with_minimum_fan_in(score: Tensor, n_active: int, minimum: int) -> Tensor:
    """Mask of the largest scores, of which every unit has its best ones whatever the others are.

    Args:
        score: Any shape; units are its first dimension.
        n_active: Connections in all; exact.
        minimum: Incoming connections of each unit, at least 1; fewer where ``n_active`` is not enough for all.

    >>> score = torch.tensor([[9.0, 8.0, 7.0], [1.0, 3.0, 2.0]])
    >>> topk_with_minimum_fan_in(score, 3, 1).int().tolist()
    [[1, 1, 0], [0, 1, 0]]
    """
    rows = rows_of(score)
    minimum = min(minimum, n_active // len(rows), rows.shape[1])
    chosen = topk_mask(rows, n_active)
    if minimum > 0 and bool((chosen.sum(1) < minimum).any()):
        counts = torch.full((len(rows),), minimum, device=rows.device)
        best = largest_per_row(rows, counts, torch.ones_like(chosen))
        chosen = best | topk_mask(rows, n_active - minimum * len(rows), ~best)
    return chosen.view(score.shape)
