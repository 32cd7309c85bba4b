"""SparseWeight: the values and indices of one weight, and nothing of its zeros."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError


class SparseWeight(nn.Module):
    """A weight seen as a matrix ``weight.reshape(shape[0], -1)``, by row (CSR).

    The ``state_dict`` holds ``values`` (n_active,), ``columns`` (n_active,) int32 and ``row_starts`` (rows + 1,) int32.

    Args:
        weight: The dense weight, rank 2 or more.
        mask: Its active connections; None for those that are not exactly zero.
        part: Columns of which the kernels read the inputs together, so that these stay in the cache.

    Raises:
        ValueError: If the mask has another shape.

    >>> SparseWeight(torch.tensor([[2.0, 0.0], [0.0, -1.0]])).values
    tensor([ 2., -1.])
    """

    values: Tensor
    columns: Tensor
    row_starts: Tensor
    parts: Tensor

    def __init__(self, weight: Tensor, mask: Tensor | None = None, part: int = 1024) -> None:
        super().__init__()
        if mask is not None and mask.shape != weight.shape:
            raise SettingError(f"Expected a mask of shape {tuple(weight.shape)}, got {tuple(mask.shape)}.")
        self.shape, self.part = tuple(weight.shape), part
        matrix = weight.detach().reshape(self.shape[0], -1)
        active = (matrix != 0) if mask is None else mask.reshape(matrix.shape)
        starts = torch.cat([active.new_zeros(1, dtype=torch.int64), active.sum(1).cumsum(0)])
        self.register_buffer("values", matrix[active].clone())
        self.register_buffer("columns", active.nonzero()[:, 1].int())
        self.register_buffer("row_starts", starts.int())
        self.register_buffer("parts", self._find_parts(), persistent=False)
        self.register_load_state_dict_post_hook(_renew_parts)

    @property
    def n_active(self) -> int:
        """Number of active connections."""
        return self.values.shape[0]

    @property
    def density(self) -> float:
        """Fraction of active connections, in [0, 1]; 1 for a weight without entries."""
        connections = math.prod(self.shape)
        return self.n_active / connections if connections else 1.0

    def rows(self) -> Tensor:
        """Row of each value, (n_active,) int64."""
        return torch.arange(self.shape[0], device=self.values.device).repeat_interleave(self.row_starts.diff().long())

    def dense(self) -> Tensor:
        """The weight with its zeros."""
        matrix = self.values.new_zeros(self.shape[0], math.prod(self.shape[1:]))
        return matrix.index_put((self.rows(), self.columns.long()), self.values).view(self.shape)

    def extra_repr(self) -> str:
        """Shape and density."""
        return f"{self.shape}, density={self.density:.3g}"

    def _check(self) -> None:
        """Indices that were loaded lie within the weight: the kernels read where they point to."""
        starts, n_columns = self.row_starts.long(), math.prod(self.shape[1:])
        whole = bool(starts[0] == 0 and starts[-1] == self.n_active and (starts.diff() >= 0).all())
        if whole and self.n_active:
            positions = self.rows() * n_columns + self.columns
            whole = bool(((self.columns >= 0) & (self.columns < n_columns)).all() and (positions.diff() > 0).all())
        if not whole:
            raise SettingError(
                f"Expected the indices of a weight of shape {self.shape}, by row and ascending, got others: the file "
                "is damaged. Write it again with save_compact."
            )

    def _find_parts(self) -> Tensor:
        """(parts + 1, rows) int32: of row r, part p owns the values ``parts[p, r]:parts[p + 1, r]``."""
        n_columns = math.prod(self.shape[1:])
        count = max(1, -(-n_columns // self.part))
        positions = self.rows() * n_columns + self.columns
        borders = torch.tensor([n_columns * p // count for p in range(count + 1)], device=positions.device)
        first = torch.arange(self.shape[0], device=positions.device) * n_columns
        return torch.searchsorted(positions, first + borders[:, None]).int()


def _renew_parts(module: nn.Module, _: Any) -> None:
    assert isinstance(module, SparseWeight)
    module._check()
    module.parts = module._find_parts()
