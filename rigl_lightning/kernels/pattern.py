"""SparsePattern: which connections of a layer are active, in the forms the kernels read.

A pattern is built once per mask change and never altered, so a step that has begun with one pattern ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.kernels.positions import positions as flat_positions
from rigl_lightning.kernels.workspace import of_no_mode

_INDEX_LIMIT = 2**31
_PART = 1024


@dataclass(frozen=True, eq=False)
class SparsePattern:
    """Active connections of a weight seen as a matrix, by row (CSR) and by column (CSC).

    A weight of any rank is the matrix ``weight.reshape(shape[0], -1)``: a convolution's column is
    ``(channel * kernel_height + y) * kernel_width + x``. All tensors are on the CPU and must not be changed.

    Attributes:
        row_starts: (rows + 1,) int32; row r owns the active connections ``row_starts[r]:row_starts[r + 1]``.
        columns: (n_active,) int32, the column of each active connection, ascending within its row.
        row_parts: (parts + 1, rows) int32; of row r, part p owns ``row_parts[p, r]:row_parts[p + 1, r]``. A part is
            at most 1024 columns wide, so that the inputs it reads stay in the cache.
        column_starts: (columns + 1,) int32, as `row_starts`, by column.
        rows: (n_active,) int32, the row of each active connection in the order by column.
        column_parts: (parts + 1, columns) int32, as `row_parts`, by column.
        by_column: (n_active,) int32; entry j of the order by column is entry ``by_column[j]`` of the order by row.
        positions: (n_active,) int64, index into the flattened weight, in the order by row.
    """

    row_starts: Tensor
    columns: Tensor
    row_parts: Tensor
    column_starts: Tensor
    rows: Tensor
    column_parts: Tensor
    by_column: Tensor
    positions: Tensor

    @staticmethod
    @of_no_mode
    def from_mask(mask: Tensor) -> SparsePattern:
        """Pattern of a boolean mask of rank 2 or more; empty rows, no or only active connections are allowed.

        Raises:
            ValueError: If the mask is not boolean, has rank below 2, or 2**31 connections or more.

        >>> SparsePattern.from_mask(torch.tensor([[True, False, True], [False, False, True]])).columns
        tensor([0, 2, 2], dtype=torch.int32)
        """
        _check_mask(mask)
        matrix = mask.detach().cpu().reshape(mask.shape[0], -1)
        return SparsePattern.from_positions(flat_positions(matrix), *matrix.shape)

    @staticmethod
    @of_no_mode
    def from_positions(positions: Tensor, n_rows: int, n_columns: int) -> SparsePattern:
        """Pattern of the active connections at ``positions``: int64 indices into the flattened weight, ascending.

        Takes memory in proportion to the active connections.

        >>> SparsePattern.from_positions(torch.tensor([0, 2, 5]), 2, 3).columns
        tensor([0, 2, 2], dtype=torch.int32)
        """
        rows, columns = positions // max(n_columns, 1), positions % max(n_columns, 1)
        by_column = _order_of(columns, n_columns)
        sorted_rows, sorted_columns = rows[by_column], columns[by_column]
        return SparsePattern(
            row_starts=_starts(torch.bincount(rows, minlength=n_rows)),
            columns=columns.int(),
            row_parts=_parts(positions, n_rows, n_columns),
            column_starts=_starts(torch.bincount(columns, minlength=n_columns)),
            rows=sorted_rows.int(),
            column_parts=_parts(sorted_columns * n_rows + sorted_rows, n_columns, n_rows),
            by_column=by_column.int(),
            positions=positions,
        )

    @staticmethod
    def from_tensors(tensors: list[Tensor]) -> SparsePattern:
        """Inverse of `tensors`."""
        return SparsePattern(*tensors)

    @property
    def n_rows(self) -> int:
        """Rows of the matrix: outputs of the layer."""
        return self.row_starts.shape[0] - 1

    @property
    def n_columns(self) -> int:
        """Columns of the matrix: inputs of the layer."""
        return self.column_starts.shape[0] - 1

    @property
    def n_active(self) -> int:
        """Number of active connections."""
        return self.columns.shape[0]

    @property
    def density(self) -> float:
        """Fraction of active connections, in [0, 1]; 1 for a weight without entries."""
        connections = self.n_rows * self.n_columns
        return self.n_active / connections if connections else 1.0

    def check(self, weight: Tensor) -> None:
        """Raise a ValueError unless the pattern is that of a weight of this shape."""
        if weight.shape[0] != self.n_rows or weight.numel() != self.n_rows * self.n_columns:
            raise ValueError(
                f"Expected a weight of {self.n_rows} x {self.n_columns} connections, got {tuple(weight.shape)}. "
                "The pattern belongs to another layer."
            )

    def tensors(self) -> list[Tensor]:
        """The attributes as a list, as operators take them."""
        return [getattr(self, field.name) for field in fields(self)]


def _order_of(columns: Tensor, n_columns: int) -> Tensor:
    """Indices that sort the columns, those of one column in the order they have."""
    keys = columns.numpy()
    # numpy sorts keys of 16 bits by counting them: no comparisons.
    keys = keys.astype(np.uint16) if n_columns <= 1 << 16 else keys
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def _parts(positions: Tensor, n_rows: int, n_columns: int) -> Tensor:
    """Where each part of each row begins among ``positions``, ascending indices into a matrix of this shape."""
    count = max(1, -(-n_columns // _PART))
    borders = torch.tensor([n_columns * part // count for part in range(count + 1)])
    return torch.searchsorted(positions, torch.arange(n_rows) * n_columns + borders[:, None]).int()


def _check_mask(mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.ndim < 2:
        raise ValueError(f"Expected a boolean mask of rank 2 or more, got {mask.dtype} of shape {tuple(mask.shape)}.")
    if mask.numel() >= _INDEX_LIMIT:
        raise ValueError(f"Expected a mask of fewer than 2**31 connections, got {mask.numel()}.")
