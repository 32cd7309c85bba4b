"""Values of the active connections in the fast tier; see `torch_tier.values`, whose results these equal."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.jobs import Indexed, gather_job, scatter_job
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import Late, readable
from rigl_lightning.kernels.stored_types import Stored
from rigl_lightning.kernels.threads import Job, Step, run
from rigl_lightning.kernels.workspace import new


def gather(weight: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Weights of the active connections in the order by row, (n_active,) float32."""
    if isinstance(weight, Stored):
        return readable(weight.values)
    columns, out = pattern.columns, new(pattern.n_active)
    return _run(gather_job, readable(weight), pattern.n_columns, pattern.row_starts, columns, out)


def ordered_by_column(values: Tensor, pattern: SparsePattern) -> Tensor:
    """Values in the order by row, put in the order by column."""
    return _run(gather_job, values, 0, pattern.column_starts, pattern.by_column, new(pattern.n_active))


def scatter(values: Tensor, like: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Tensor of the shape of ``like`` with ``values`` at the active ones, 0 elsewhere; the values for `Stored`."""
    if isinstance(like, Stored):
        return values
    return _run(scatter_job, values, pattern.n_columns, pattern.row_starts, pattern.columns, new(*like.shape))


def ordered_by_column_step(values: Late, starts: Late, by_column: Late, out: Late, n_columns: int) -> Step:
    """`ordered_by_column`, to be run later."""
    return Step(gather_job, _tasks(n_columns), Indexed(values, 0, starts, by_column, out, n_columns))


def _run(compiled: Job, source: Tensor, stride: int, starts: Tensor, indices: Tensor, out: Tensor) -> Tensor:
    """Fill ``out`` by `gather_job` or `scatter_job`, whose settings the arguments are."""
    n_rows = starts.shape[0] - 1
    run(compiled, _tasks(n_rows), Indexed(source, stride, starts, indices, out, n_rows))
    return out


def _tasks(n_rows: int) -> int:
    threads = torch.get_num_threads()
    return min(n_rows, 4 * threads if threads > 1 else 1)
