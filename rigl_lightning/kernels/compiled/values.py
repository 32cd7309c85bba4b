"""Values of the active connections in the fast tier; see `values`, whose results these equal."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.jobs import gather_job, scatter_job
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.stored_types import Stored
from rigl_lightning.kernels.threads import run


def gather(weight: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Weights of the active connections in the order by row, (n_active,) float32."""
    if isinstance(weight, Stored):
        return weight.values
    weight, out = weight.contiguous(), torch.empty(pattern.n_active)
    settings = [weight.data_ptr(), pattern.n_columns, pattern.row_starts.data_ptr(), pattern.columns.data_ptr()]
    run(gather_job, _tasks(pattern.n_rows), [*settings, out.data_ptr(), pattern.n_rows])
    return out


def ordered_by_column(values: Tensor, pattern: SparsePattern) -> Tensor:
    """Values in the order by row, put in the order by column."""
    out = torch.empty(pattern.n_active)
    settings = [values.data_ptr(), 0, pattern.column_starts.data_ptr(), pattern.by_column.data_ptr()]
    run(gather_job, _tasks(pattern.n_columns), [*settings, out.data_ptr(), pattern.n_columns])
    return out


def scatter(values: Tensor, like: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Tensor of the shape of ``like`` with ``values`` at the active ones, 0 elsewhere; the values for `Stored`."""
    if isinstance(like, Stored):
        return values
    dense = torch.empty(like.shape)
    settings = [values.data_ptr(), pattern.n_columns, pattern.row_starts.data_ptr(), pattern.columns.data_ptr()]
    run(scatter_job, _tasks(pattern.n_rows), [*settings, dense.data_ptr(), pattern.n_rows])
    return dense


def _tasks(rows: int) -> int:
    threads = torch.get_num_threads()
    return min(rows, 4 * threads if threads > 1 else 1)
