"""Linear layers of the torch tier: `embedding_bag` is a sparse × dense product, `sampled_addmm` the weight gradient.

Samples lie side by side: matrices are (features, M), as both operators want them.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.torch_tier.values import gather, scatter

_BLOCK = 256
"""Samples that `sampled_addmm` sees at once: more fall out of the second-level cache and take 2-3 times as long."""


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern) -> Tensor:
    """Outputs (outputs, M) of inputs (inputs, M), reading active connections only."""
    out = multiply(x, gather(weight, pattern), pattern.row_starts, pattern.columns)
    return out if bias is None else out.add_(bias[:, None])


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the inputs (inputs, M), and of the weight: dense, zero at inactive connections."""
    grad_x = grad_weight = None
    if need_x:
        values = gather(weight, pattern).index_select(0, pattern.by_column)
        grad_x = multiply(grad, values, pattern.column_starts, pattern.rows)
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
    """Gradient of each active connection, from inputs (inputs, M) and gradients of the outputs (outputs, M)."""
    zeros = x.new_zeros(pattern.n_active)
    if not pattern.n_active or not x.shape[1]:
        return zeros
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        shape = (pattern.n_rows, pattern.n_columns)
        total = torch.sparse_csr_tensor(pattern.row_starts, pattern.columns, zeros, shape, check_invariants=False)
    x = x.t().contiguous()
    for start in range(0, x.shape[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        total = torch.sparse.sampled_addmm(total, grad[:, block], x[block])
    return total.values()
