"""Statistics of masks: how far they have moved, and what they cut off. Boolean tensors of one layer in, numbers out."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.layouts import rows_of


def survival(first: Tensor, now: Tensor) -> float:
    """Fraction of the connections that were active at first and are active now, in [0, 1].

    >>> import torch
    >>> survival(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    0.5
    """
    return count_active(first & now) / max(count_active(first), 1)


def hamming_distance(first: Tensor, now: Tensor) -> float:
    """Fraction of all connections, active or not, in which two masks differ, in [0, 1].

    >>> import torch
    >>> hamming_distance(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    0.5
    """
    return count_active(first ^ now) / max(first.numel(), 1)


def dead_units(mask: Tensor) -> int:
    """Number of units (rows of a matrix, output channels of a convolution) without an active incoming connection.

    >>> import torch
    >>> dead_units(torch.tensor([[True, False], [False, False]]))
    1
    """
    live = live_units(mask)
    return len(live) - count_active(live)


def live_units(mask: Tensor) -> Tensor:
    """Which units have an active incoming connection, (units,).

    >>> import torch
    >>> live_units(torch.tensor([[True, False], [False, False]]))
    tensor([ True, False])
    """
    # As bytes: on the CPU torch reads booleans one by one, a hundred times slower.
    return rows_of(mask).view(torch.uint8).amax(1).bool()
