"""The transposed matrix of a convolution: which gradients of outputs feed a channel and phase of the input."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.jobs import Grouping, group_job
from rigl_lightning.kernels.compiled.products import Matrix
from rigl_lightning.kernels.conv_geometry import Geometry, tables
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import new


def transposed(pattern: SparsePattern, values: Tensor, g: Geometry) -> tuple[Matrix, Tensor]:
    """The connections sorted by the channel and phase they feed, with offsets into the gradient; and their values."""
    t, n_groups = tables(g), g.channels * g.phases
    parts = torch.zeros(2, n_groups, dtype=torch.int32, device="cpu")
    offsets, ordered = torch.empty_like(pattern.columns), new(pattern.n_active)
    settings = Grouping(
        starts=pattern.row_starts,
        columns=pattern.columns,
        values=values,
        groups=t.groups,
        shifts=t.shifts,
        parts=parts,
        offsets=offsets,
        ordered=ordered,
        n_rows=pattern.n_rows,
        n_groups=n_groups,
        plane=g.grad_plane // g.lanes,
    )
    run(group_job, 1, settings)
    return Matrix.of(parts, offsets, g.lanes), ordered
