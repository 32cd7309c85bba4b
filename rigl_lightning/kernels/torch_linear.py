"""Linear layers of the torch tier: `embedding_bag` is a sparse × dense product, `sampled_addmm` the weight gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.values import gather, scatter

_BLOCK = 256
"""Samples that `sampled_addmm` sees at once: more fall out of the second-level cache, and it takes 2-3 times as long."""


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern) -> Tensor:
    """``x @ weight.T + bias`` of (M, inputs), reading active connections only."""
    out = multiply(x.t(), gather(weight, pattern), pattern.row_starts, pattern.columns).t()
    return out.contiguous() if bias is None else out + bias


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the inputs (M, inputs), and of the weight: dense, zero at inactive connections."""
    grad_x = grad_weight = None
    if need_x:
        values = gather(weight, pattern).index_select(0, pattern.by_column)
        grad_x = multiply(grad.t(), values, pattern.column_starts, pattern.rows).t().contiguous()
    if need_weight:
        grad_weight = scatter(connection_gradients(x, grad, pattern), weight, pattern)
    return grad_x, grad_weight


def multiply(x: Tensor, values: Tensor, starts: Tensor, indices: Tensor) -> Tensor:
    """Sparse matrix (rows, columns) times dense (columns, M)."""
    if not values.numel():
        return x.new_zeros(starts.shape[0] - 1, x.shape[1])
    # Row r is the bag of the dense rows it reads, weighted and summed: the kernel of FBGEMM is vectorised and threaded.
    return F.embedding_bag(
        indices, x.contiguous(), starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def connection_gradients(x: Tensor, grad: Tensor, pattern: SparsePattern) -> Tensor:
    """Gradient of each active connection, from inputs (M, inputs) and gradients of the outputs (M, outputs)."""
    if not pattern.n_active or not x.shape[0]:
        return x.new_zeros(pattern.n_active)
    shape = (pattern.n_rows, pattern.n_columns)
    zeros = x.new_zeros(pattern.n_active)
    total = torch.sparse_csr_tensor(pattern.row_starts, pattern.columns, zeros, shape, check_invariants=False)
    for start in range(0, x.shape[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        total = torch.sparse.sampled_addmm(total, grad[block].t(), x[block])
    return total.values()
