"""Products of the fast tier: the compiled jobs with their settings named, on float32 CPU tensors.

Dense operands are blocks: (blocks, channels, ...) with the positions that share a weight side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.jobs import (
    Product,
    Sampled,
    gradient_job,
    product_job,
)
from rigl_lightning.kernels.settings import Late, Operand, Place, readable
from rigl_lightning.kernels.threads import Step, run
from rigl_lightning.kernels.workspace import new_zeros

_CACHE_FLOATS = 32 * 1024
"""Inputs that `sampled_product` visits at once: 128 KiB, a quarter of a small second-level cache."""
_PIECE = 256
"""Positions of a line that it visits at once."""


class View(NamedTuple):
    """Where a blocked operand lies: element (block, channel, line, p) in floats from its beginning.

    Attributes:
        tensor: Its memory, float32.
        start: First element.
        block: From one block to the next.
        line: From one line to the next.
        row: From one channel to the next.
    """

    tensor: Tensor | Late
    start: int
    block: int
    line: int
    row: int

    @property
    def place(self) -> Place | Late:
        """The first element."""
        return self.tensor if isinstance(self.tensor, Late) else Place(self.tensor, self.start)


class Matrix(NamedTuple):
    """A sparse matrix by row: its parts (see `SparsePattern`), and where each active connection reads.

    Attributes:
        parts: (parts + 1, rows) int32.
        columns: (n_active,) int32.
        scale: Floats from one column to the next in the dense operand.
        n_parts: Number of parts.
        n_rows: Number of rows.
    """

    parts: Tensor | Late
    columns: Tensor | Late
    scale: int
    n_parts: int
    n_rows: int

    @staticmethod
    def of(parts: Tensor, columns: Tensor, scale: int) -> Matrix:
        """The matrix of these tensors."""
        return Matrix(parts, columns, scale, parts.shape[0] - 1, parts.shape[1])


def product(
    matrix: Matrix, values: Tensor, x: View, y: View, bias: Tensor | None, n_blocks: int, n_lines: int, length: int
) -> None:
    """Sparse × dense: ``y[block, row, line, :length] = bias[row] + matrix[row] @ x[block, :, line, :length]``."""
    bias = readable(bias) if bias is not None else None
    run(product_job, *_product(matrix, values, x, y, bias, n_blocks, n_lines, length))


def product_step(
    matrix: Matrix, values: Late, x: View, y: View, bias: Late | None, n_blocks: int, n_lines: int, length: int
) -> Step:
    """`product`, to be run later."""
    return Step(product_job, *_product(matrix, values, x, y, bias, n_blocks, n_lines, length))


def _product(
    matrix: Matrix, values: Operand, x: View, y: View, bias: Operand, n_blocks: int, n_lines: int, length: int
) -> tuple[int, Product]:
    """Number of tasks, and their settings."""
    n_chunks = _chunks(matrix.n_rows, n_blocks * n_lines)
    settings = Product(
        x=x.place,
        x_block=x.block,
        x_line=x.line,
        y=y.place,
        y_block=y.block,
        y_line=y.line,
        y_row=y.row,
        parts=matrix.parts,
        n_parts=matrix.n_parts,
        columns=matrix.columns,
        scale=matrix.scale,
        values=values,
        bias=bias,
        n_rows=matrix.n_rows,
        n_chunks=n_chunks,
        n_lines=n_lines,
        length=length,
    )
    return n_blocks * n_lines * n_chunks if matrix.n_rows and length else 0, settings


def sampled_product(
    matrix: Matrix, x: View, g: View, n_blocks: int, n_lines: int, length: int, channels: int, out: Tensor | None = None
) -> Tensor:
    """Sampled dense × dense: ``g[row] · x[column]`` of each active connection, (n_active,) in the order by row.

    Args:
        matrix: The active connections, whose tensors are known.
        x: Inputs.
        g: Gradients of the outputs.
        n_blocks: Blocks to sum over.
        n_lines: Lines of a block.
        length: Positions of a line.
        channels: Channels of ``x``, for the size of the pieces.
        out: Where to add the result, or None.
    """
    assert isinstance(matrix.columns, Tensor)
    out = new_zeros(matrix.columns.shape[0]) if out is None else out
    run(gradient_job, *_sampled(matrix, x, g, n_blocks, n_lines, length, channels, out))
    return out


def sampled_product_step(
    matrix: Matrix, x: View, g: View, n_blocks: int, n_lines: int, length: int, channels: int, out: Late
) -> Step:
    """`sampled_product`, to be run later; it adds to ``out``."""
    return Step(gradient_job, *_sampled(matrix, x, g, n_blocks, n_lines, length, channels, out))


def _sampled(
    matrix: Matrix, x: View, g: View, n_blocks: int, n_lines: int, length: int, channels: int, out: Operand
) -> tuple[int, Sampled]:
    """Number of tasks, and their settings."""
    width = max(1, min(channels, -(-channels // matrix.n_parts)))
    # As many lines as the cache holds; where there are few, longer pieces of them.
    piece = max(1, min(length, max(_PIECE, _CACHE_FLOATS // (width * max(1, n_lines)))))
    step = max(1, _CACHE_FLOATS // (width * piece))
    settings = Sampled(
        x=x.place,
        x_block=x.block,
        x_line=x.line,
        g=g.place,
        g_block=g.block,
        g_line=g.line,
        g_row=g.row,
        parts=matrix.parts,
        n_parts=matrix.n_parts,
        columns=matrix.columns,
        scale=matrix.scale,
        out=out,
        n_rows=matrix.n_rows,
        n_blocks=n_blocks,
        n_lines=n_lines,
        length=length,
        step=step,
        piece=piece,
    )
    threads = torch.get_num_threads()
    return min(matrix.n_rows, 4 * threads if threads > 1 else 1), settings


def _chunks(n_rows: int, n_tasks: int) -> int:
    """Into how many chunks the rows are cut, so that every thread finds work."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 or n_tasks >= 2 * threads else min(max(n_rows, 1), 4 * threads)
