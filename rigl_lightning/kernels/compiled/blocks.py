"""Blocks of samples: up to 8 vectors of them lie side by side, channel by channel, as (n, channels, length)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.ir import TILES, WIDTH
from rigl_lightning.kernels.compiled.products import Matrix, View, product, sampled_product
from rigl_lightning.kernels.compiled.transposition import Axis, Planes, transposition
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import Late
from rigl_lightning.kernels.threads import Step
from rigl_lightning.kernels.workspace import new, of_no_mode


def by_row(pattern: SparsePattern, blocks: Tensor) -> Matrix:
    """The pattern as it multiplies blocks (n, inputs, length)."""
    return Matrix.of(pattern.row_parts, pattern.columns, blocks.shape[2])


def by_column(pattern: SparsePattern, blocks: Tensor) -> Matrix:
    """The transposed pattern as it multiplies blocks (n, outputs, length)."""
    return Matrix.of(pattern.column_parts, pattern.rows, blocks.shape[2])


def multiply(blocks: Tensor, values: Tensor, matrix: Matrix, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Sparse matrix times every block: (n, inputs, length) to (n, outputs, length), in ``out`` if given."""
    n_blocks, _, length = blocks.shape
    out = new(n_blocks, matrix.n_rows, length) if out is None else out
    product(matrix, values, view(blocks), view(out), bias, n_blocks, 1, length)
    return out


def connection_gradients(x: Tensor, grad: Tensor, matrix: Matrix) -> Tensor:
    """Gradient of each active connection from blocks (n, inputs, length) and (n, outputs, length)."""
    n_blocks, channels, length = x.shape
    # Blocks are visited as lines of one block, so that their sums stay in registers.
    return sampled_product(matrix, view(x), view(grad), 1, n_blocks, length, channels)


def view(blocks: Tensor) -> View:
    """Contiguous blocks (n, channels, length), the blocks also as lines."""
    return view_of(blocks, *blocks.shape[1:])


def view_of(blocks: Tensor | Late, channels: int, length: int) -> View:
    """`view` of blocks that may be known at the call only."""
    return View(blocks, 0, channels * length, channels * length, length)


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
