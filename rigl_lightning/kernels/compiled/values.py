"""Values of the active connections in the fast tier; see `torch_tier.values`, whose results these equal."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.jobs import Indexed, gather_job, scatter_job
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import readable
from rigl_lightning.kernels.stored_types import Stored
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import new


def gather(weight: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Weights of the active connections in the order by row, (n_active,) float32."""
    if isinstance(weight, Stored):
        return readable(weight.values)
    out = new(pattern.n_active)
    settings = Indexed(
        source=readable(weight),
        stride=pattern.n_columns,
        starts=pattern.row_starts,
        indices=pattern.columns,
        out=out,
        n_rows=pattern.n_rows,
    )
    run(gather_job, _tasks(pattern.n_rows), settings)
    return out


def ordered_by_column(values: Tensor, pattern: SparsePattern) -> Tensor:
    """Values in the order by row, put in the order by column."""
    out = new(pattern.n_active)
    run(
        gather_job,
        _tasks(pattern.n_columns),
        Indexed(
            source=values,
            stride=0,
            starts=pattern.column_starts,
            indices=pattern.by_column,
            out=out,
            n_rows=pattern.n_columns,
        ),
    )
    return out


def scatter(values: Tensor, like: Tensor | Stored, pattern: SparsePattern) -> Tensor:
    """Tensor of the shape of ``like`` with ``values`` at the active ones, 0 elsewhere; the values for `Stored`."""
    if isinstance(like, Stored):
        return values
    dense = new(*like.shape)
    settings = Indexed(
        source=values,
        stride=pattern.n_columns,
        starts=pattern.row_starts,
        indices=pattern.columns,
        out=dense,
        n_rows=pattern.n_rows,
    )
    run(scatter_job, _tasks(pattern.n_rows), settings)
    return dense


def _tasks(rows: int) -> int:
    threads = torch.get_num_threads()
    return min(rows, 4 * threads if threads > 1 else 1)
