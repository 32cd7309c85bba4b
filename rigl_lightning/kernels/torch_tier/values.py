"""Values of the active connections: read from the dense weight, and written back as a dense gradient."""

from __future__ import annotations

from torch import Tensor

from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.stored_types import Stored


def gather(weight: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Weights of the active connections in the order by row, (n_active,)."""
    if isinstance(weight, Stored):
        return weight.values
    return weight.reshape(-1).index_select(0, pattern.positions)


def scatter(values: Tensor, like: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Tensor of the shape of ``like`` with ``values`` at the active ones, 0 elsewhere; the values for `Stored`."""
    if isinstance(like, Stored):
        return values
    dense = values.new_zeros(like.numel())
    return dense.index_copy_(0, pattern.positions, values).view(like.shape)
