"""Linear layers of the fast tier: rows are turned into blocks of up to 8 vectors of samples, side by side."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.ir import TILES, WIDTH
from rigl_lightning.kernels.compiled.products import Matrix, View, product, sampled_product
from rigl_lightning.kernels.compiled.transposition import Axis, Planes, transposition
from rigl_lightning.kernels.compiled.values import gather, ordered_by_column, scatter
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import Late, readable
from rigl_lightning.kernels.threads import Step
from rigl_lightning.kernels.workspace import new, of_no_mode, scratch

_ROWS, _BLOCKS = "rows", "blocks"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern) -> Tensor:
    """``x @ weight.T + bias`` of (M, inputs), reading active connections only.

    Inputs, and gradients in `backward`, may be bfloat16; what is returned for them is of the dtype of ``x``.
    """
    blocks = to_blocks(x, "inputs")
    out = scratch("outputs", blocks.shape[0], pattern.n_rows, blocks.shape[2])
    out = multiply(blocks, gather(weight, pattern), by_row(pattern, blocks), bias, out)
    return from_blocks(out, x.shape[0], x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the inputs (M, inputs), and of the weight: dense, zero at inactive connections."""
    blocks = to_blocks(grad, "grads")
    grad_x = grad_weight = None
    if need_x:
        values = ordered_by_column(gather(weight, pattern), pattern)
        out = scratch("outputs", blocks.shape[0], pattern.n_columns, blocks.shape[2])
        out = multiply(blocks, values, by_column(pattern, blocks), None, out)
        grad_x = from_blocks(out, x.shape[0], x.dtype)
    if need_weight:
        x_blocks = to_blocks(x, "inputs")
        grad_weight = scatter(connection_gradients(x_blocks, blocks, by_row(pattern, x_blocks)), weight, pattern)
    return grad_x, grad_weight


def by_row(pattern: SparsePattern, blocks: Tensor) -> Matrix:
    """The pattern as it multiplies blocks (n, inputs, length)."""
    return Matrix(pattern.row_parts, pattern.columns, blocks.shape[2])


def by_column(pattern: SparsePattern, blocks: Tensor) -> Matrix:
    """The transposed pattern as it multiplies blocks (n, outputs, length)."""
    return Matrix(pattern.column_parts, pattern.rows, blocks.shape[2])


def multiply(blocks: Tensor, values: Tensor, matrix: Matrix, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Sparse matrix times every block: (n, inputs, length) to (n, outputs, length), in ``out`` if given."""
    n_blocks, _, length = blocks.shape
    out = new(n_blocks, matrix.parts.shape[1], length) if out is None else out
    product(matrix, values, view(blocks), view(out), bias, n_blocks, 1, length)
    return out


def connection_gradients(x: Tensor, grad: Tensor, matrix: Matrix) -> Tensor:
    """Gradient of each active connection from blocks (n, inputs, length) and (n, outputs, length)."""
    n_blocks, channels, length = x.shape
    # Blocks are visited as lines of one block, so that their sums stay in registers.
    return sampled_product(matrix, view(x), view(grad), 1, n_blocks, length, channels)


def view(blocks: Tensor) -> View:
    """Contiguous blocks (n, channels, length), the blocks also as lines."""
    _, channels, length = blocks.shape
    return View(blocks, 0, channels * length, channels * length, length)


def to_blocks(x: Tensor, name: str) -> Tensor:
    """(M, channels) to (n, channels, length) in the scratch memory ``name``; missing samples are 0."""
    samples, channels = x.shape
    n_blocks, length = partition(samples)
    blocks = scratch(name, n_blocks, channels, length)
    if n_blocks * length > samples:
        blocks[-1].zero_()
    _steps_between(samples, channels, x.dtype)[0].run({_ROWS: readable(x), _BLOCKS: blocks})
    return blocks


def from_blocks(blocks: Tensor, samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `to_blocks`."""
    x = new(samples, blocks.shape[1], dtype=dtype)
    _steps_between(samples, blocks.shape[1], dtype)[1].run({_ROWS: x, _BLOCKS: blocks})
    return x


@lru_cache(maxsize=256)
def _steps_between(samples: int, channels: int, dtype: torch.dtype) -> tuple[Step, Step]:
    """From rows to blocks, and from blocks to rows."""
    rows, blocks = Late(_ROWS), Late(_BLOCKS)
    return (
        step_to_blocks(rows, blocks, samples, channels, dtype),
        step_from_blocks(blocks, rows, samples, channels, dtype),
    )


def step_to_blocks(
    rows: Tensor | Late, blocks: Tensor | Late, samples: int, channels: int, dtype: torch.dtype = torch.float32
) -> Step:
    """Copy rows (M, channels) to blocks (n, channels, length)."""
    n_blocks, length = partition(samples)
    source = Planes(rows, length * channels, 0, steps(1, 0), dtype=dtype)
    target = Planes(blocks, channels * length, 0, steps(1, 0))
    of_rows = Axis(steps(length, channels), samples)
    return transposition(source, of_rows, target, Axis(steps(channels, length), n_blocks * channels), n_blocks, 1)


def step_from_blocks(
    blocks: Tensor | Late, rows: Tensor | Late, samples: int, channels: int, dtype: torch.dtype = torch.float32
) -> Step:
    """Inverse of `step_to_blocks`."""
    n_blocks, length = partition(samples)
    source = Planes(blocks, channels * length, 0, steps(1, 0))
    target = Planes(rows, length * channels, 0, steps(1, 0), dtype=dtype)
    of_blocks = Axis(steps(channels, length), n_blocks * channels)
    return transposition(source, of_blocks, target, Axis(steps(length, channels), samples), n_blocks, 1, True)


def partition(samples: int) -> tuple[int, int]:
    """Number of blocks and their length, a multiple of a vector, for the least padding."""
    n_blocks = -(-samples // TILES[0])
    return n_blocks, -(-samples // (max(n_blocks, 1) * WIDTH)) * WIDTH


@lru_cache(maxsize=1024)
@of_no_mode
def steps(count: int, step: int) -> Tensor:
    """``[0, step, 2 * step, ...]``, int64."""
    return torch.arange(count) * step
