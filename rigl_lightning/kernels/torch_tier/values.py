"""Values of the active connections: read from the dense weight, and written back as a dense gradient."""

from __future__ import annotations

from torch import Tensor

from rigl_lightning.kernels.pattern import SparsePattern


def gather(weight: Tensor, pattern: SparsePattern) -> Tensor:
    """Weights of the active connections in the order by row, (n_active,)."""
    return weight.reshape(-1).index_select(0, pattern.positions)


def scatter(values: Tensor, like: Tensor, pattern: SparsePattern) -> Tensor:
    """Tensor of the shape of ``like`` with ``values`` at the active connections and 0 elsewhere."""
    dense = values.new_zeros(like.numel())
    return dense.index_copy_(0, pattern.positions, values).view(like.shape)
