"""Products of the fast tier: the compiled jobs with their settings named, on float32 CPU tensors.

Dense operands are blocks: (blocks, channels, ...) with the positions that share a weight side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.jobs import gradient_job, product_job, transpose_job
from rigl_lightning.kernels.threads import run

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

    tensor: Tensor
    start: int
    block: int
    line: int
    row: int

    @property
    def address(self) -> int:
        """Address of the first element."""
        return self.tensor.data_ptr() + 4 * self.start


class Matrix(NamedTuple):
    """A sparse matrix by row: its parts (see `SparsePattern`), and where each active connection reads.

    Attributes:
        parts: (parts + 1, rows) int32.
        columns: (n_active,) int32.
        scale: Floats from one column to the next in the dense operand.
    """

    parts: Tensor
    columns: Tensor
    scale: int


def product(
    matrix: Matrix, values: Tensor, x: View, y: View, bias: Tensor | None, n_blocks: int, n_lines: int, length: int
) -> None:
    """Sparse × dense: ``y[block, row, line, :length] = bias[row] + matrix[row] @ x[block, :, line, :length]``."""
    n_rows = matrix.parts.shape[1]
    n_chunks = _chunks(n_rows, n_blocks * n_lines)
    settings = [x.address, x.block, x.line, y.address, y.block, y.line, y.row]
    settings += [matrix.parts.data_ptr(), matrix.parts.shape[0] - 1, matrix.columns.data_ptr(), matrix.scale]
    settings += [values.data_ptr(), bias.data_ptr() if bias is not None else 0, n_rows, n_chunks, n_lines, length]
    run(product_job, n_blocks * n_lines * n_chunks if n_rows and length else 0, settings)


def sampled_product(
    matrix: Matrix, x: View, g: View, n_blocks: int, n_lines: int, length: int, channels: int, out: Tensor | None = None
) -> Tensor:
    """Sampled dense × dense: ``g[row] · x[column]`` of each active connection, (n_active,) in the order by row.

    Args:
        matrix: The active connections.
        x: Inputs.
        g: Gradients of the outputs.
        n_blocks: Blocks to sum over.
        n_lines: Lines of a block.
        length: Positions of a line.
        channels: Channels of ``x``, for the size of the pieces.
        out: Where to add the result, or None.
    """
    out = torch.zeros(matrix.columns.shape[0]) if out is None else out
    n_rows, n_parts = matrix.parts.shape[1], matrix.parts.shape[0] - 1
    width = max(1, min(channels, -(-channels // n_parts)))
    piece = min(length, _PIECE)
    step = max(1, _CACHE_FLOATS // (width * max(1, piece)))
    settings = [x.address, x.block, x.line, g.address, g.block, g.line, g.row]
    settings += [matrix.parts.data_ptr(), n_parts, matrix.columns.data_ptr(), matrix.scale]
    settings += [out.data_ptr(), n_rows, n_blocks, n_lines, length, step, max(1, piece)]
    threads = torch.get_num_threads()
    run(gradient_job, min(n_rows, 4 * threads if threads > 1 else 1), settings)
    return out


class Planes(NamedTuple):
    """One side of `transpose`: where its planes and lines lie, in floats.

    Attributes:
        tensor: Its memory, float32.
        block: From one block to the next.
        plane: From one plane to the next.
        lines: int64 offset of each line of a plane.
    """

    tensor: Tensor
    block: int
    plane: int
    lines: Tensor


class Axis(NamedTuple):
    """One axis of the matrices that `transpose` copies.

    Attributes:
        offsets: int64 offset of each index, in floats.
        all: Indices of all blocks together; the last block has what is left.
    """

    offsets: Tensor
    all: int


def transpose(source: Planes, rows: Axis, target: Planes, columns: Axis, n_blocks: int, n_planes: int) -> None:
    """``target[columns.offsets[j] + i] = source[rows.offsets[i] + j]``, in every line of every plane and block."""
    settings = [source.tensor.data_ptr(), source.block, source.plane, source.lines.data_ptr()]
    settings += [target.tensor.data_ptr(), target.block, target.plane, target.lines.data_ptr()]
    settings += [n_planes, source.lines.shape[0]]
    for axis in (rows, columns):
        settings += [axis.offsets.data_ptr(), axis.offsets.shape[0], axis.all]
    run(transpose_job, n_blocks * n_planes, settings)


def _chunks(n_rows: int, n_tasks: int) -> int:
    """Into how many chunks the rows are cut, so that every thread finds work."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 or n_tasks >= 2 * threads else min(max(n_rows, 1), 4 * threads)
