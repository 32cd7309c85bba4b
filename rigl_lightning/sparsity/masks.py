"""Boolean masks: which connections of a layer are active, chosen exactly and always alike.

Every function takes and returns tensors of one layer, of any shape. A mask is ``torch.bool``, True where a connection
is active. Counts are exact. The first of equal scores in row-major order wins, on every device, thread and process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.selection import largest, random_positions, smallest


def random_mask(shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
    """Mask with ``n_active`` active connections at random positions.

    Args:
        shape: Shape of the weight.
        n_active: Active connections, in [0, number of connections].
        generator: CPU generator; the mask is made on the CPU, so that it does not depend on the device.

    Returns:
        Boolean CPU tensor of ``shape``.

    >>> random_mask((2, 5), 3, torch.Generator().manual_seed(0)).sum().item()
    3
    """
    numel = math.prod(shape)
    _check_count("n_active", n_active, numel)
    if n_active == numel:
        return torch.ones(*shape, dtype=torch.bool)
    mask = torch.zeros(numel, dtype=torch.bool)
    mask[random_positions(numel, n_active, generator)] = True
    return mask.view(*shape)


def topk_mask(score: Tensor, n_active: int, candidates: Tensor | None = None) -> Tensor:
    """Mask of the ``n_active`` largest scores.

    Args:
        score: Any shape, no NaN. Infinite scores are allowed.
        n_active: Active connections, in [0, number of candidates].
        candidates: Boolean, of the score's shape: connections that may become active; None for all.

    Returns:
        Boolean tensor of the score's shape and device, contiguous.

    Raises:
        ValueError: If the count does not fit, or the score of a candidate is NaN.

    >>> topk_mask(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 3)
    tensor([False,  True,  True,  True, False])
    """
    _check_count("n_active", n_active, score.numel() if candidates is None else count_active(candidates))
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[largest(score, n_active, candidates)] = True
    return mask.view(score.shape)


def drop_and_grow(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, n_grow: int | None = None
) -> Tensor:
    """Move ``n_update`` connections: drop the lowest-scored active ones, then grow the highest-scored inactive ones.

    A connection that has just been dropped may grow again, as in the paper (section 3, "Grow Criterion": the
    candidates are all connections but those that survived the drop).

    Args:
        mask: Boolean, any shape: the connections that are active now.
        drop_score: Same shape; read where the mask is True. Low is dropped.
        grow_score: Same shape; read everywhere but at the survivors. High is grown.
        n_update: Connections to drop, in [0, number of active connections].
        n_grow: Connections to grow, in [0, those that are inactive after the drop]; None for as many as are dropped.

    Returns:
        New mask of the same shape, unless ``n_grow`` says otherwise with the same number of active connections.

    Raises:
        ValueError: If the count does not fit, or a score that is read is NaN.

    >>> mask = torch.tensor([True, True, True, False, False, False])
    >>> weight = torch.tensor([0.5, 0.1, 0.9, 0.0, 0.0, 0.0])
    >>> gradient = torch.tensor([9.0, 0.2, 9.0, 0.1, 0.4, 0.3])
    >>> drop_and_grow(mask, weight.abs(), gradient.abs(), 1)  # drops the second, grows the fifth
    tensor([ True, False,  True, False,  True, False])
    """
    _check_count("n_update", n_update, n_active := count_active(mask))
    _check_count("n_grow", n_grow or 0, mask.numel() - n_active + n_update)
    new_mask = mask.reshape(-1).clone()
    new_mask[smallest(drop_score, n_update, mask)] = False
    new_mask[largest(grow_score, n_update if n_grow is None else n_grow, ~new_mask)] = True
    return new_mask.view(mask.shape)


def _check_count(what: str, count: int, limit: int) -> None:
    if not 0 <= count <= limit:
        raise SettingError(f"Expected `{what}` in [0, {limit}], got {count}.")
