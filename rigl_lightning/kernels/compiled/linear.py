"""Linear layers of the fast tier: rows are turned into blocks of up to 8 vectors of samples, side by side.

The steps of a layer of one size are packed once, and at a call only the addresses of its tensors are filled in: in a
small layer the Python around the products costs as much as they do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.blocks import partition, step_from_blocks, step_to_blocks, view_of
from rigl_lightning.kernels.compiled.products import Matrix, product_step, sampled_product_step
from rigl_lightning.kernels.compiled.values import gather, ordered_by_column_step, scatter
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.settings import Late, readable
from rigl_lightning.kernels.threads import Program
from rigl_lightning.kernels.workspace import new, new_zeros, scratch


class _Sizes(NamedTuple):
    """What a program depends on, besides dtypes and what is computed."""

    samples: int
    rows: int
    columns: int
    row_parts: int
    column_parts: int
    threads: int

    @staticmethod
    def of(samples: int, pattern: SparsePattern) -> _Sizes:
        parts = pattern.row_parts.shape[0] - 1, pattern.column_parts.shape[0] - 1
        return _Sizes(samples, pattern.n_rows, pattern.n_columns, *parts, torch.get_num_threads())


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern) -> Tensor:
    """``x @ weight.T + bias`` of (M, inputs), reading active connections only.

    Inputs, and gradients in `backward`, may be bfloat16; what is returned for them is of the dtype of ``x``.
    """
    sizes = _Sizes.of(x.shape[0], pattern)
    out = new(sizes.samples, sizes.rows, dtype=x.dtype)
    _forward_program(sizes, x.dtype).run(
        {
            "x": readable(x),
            "inputs": _blocks("inputs", sizes, sizes.columns),
            "values": gather(weight, pattern),
            "bias": None if bias is None else readable(bias),
            "row_parts": pattern.row_parts,
            "columns": pattern.columns,
            "outputs": _blocks("outputs", sizes, sizes.rows),
            "out": out,
        }
    )
    return out


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the inputs (M, inputs), and of the weight: dense, zero at inactive connections."""
    sizes = _Sizes.of(x.shape[0], pattern)
    grad_x = new(sizes.samples, sizes.columns, dtype=x.dtype) if need_x else None
    gradients = new_zeros(pattern.n_active) if need_weight else None
    operands: dict[str, Tensor | None] = {"grad": readable(grad), "grads": _blocks("grads", sizes, sizes.rows)}
    if need_x:
        operands |= {
            "values": gather(weight, pattern),
            "column_starts": pattern.column_starts,
            "by_column": pattern.by_column,
            "ordered": new(pattern.n_active),
            "column_parts": pattern.column_parts,
            "rows": pattern.rows,
            "outputs": _blocks("outputs", sizes, sizes.columns),
            "grad_x": grad_x,
        }
    if need_weight:
        operands |= {
            "x": readable(x),
            "inputs": _blocks("inputs", sizes, sizes.columns),
            "row_parts": pattern.row_parts,
            "columns": pattern.columns,
            "gradients": gradients,
        }
    _backward_program(sizes, x.dtype, grad.dtype, need_x, need_weight).run(operands)
    return grad_x, None if gradients is None else scatter(gradients, weight, pattern)


def _blocks(name: str, sizes: _Sizes, channels: int) -> Tensor:
    """Memory of blocks, which no operator gives away; missing samples are 0."""
    n_blocks, length = partition(sizes.samples)
    blocks = scratch(name, n_blocks, channels, length)
    if n_blocks * length > sizes.samples:
        blocks[-1].zero_()
    return blocks


@lru_cache(maxsize=256)
def _forward_program(sizes: _Sizes, dtype: torch.dtype) -> Program:
    samples, rows, columns, parts, *_ = sizes
    n_blocks, length = partition(samples)
    inputs, outputs = Late("inputs"), Late("outputs")
    matrix = Matrix(Late("row_parts"), Late("columns"), length, parts, rows)
    x, y = view_of(inputs, columns, length), view_of(outputs, rows, length)
    return Program(
        step_to_blocks(Late("x"), inputs, samples, columns, dtype),
        product_step(matrix, Late("values"), x, y, Late("bias"), n_blocks, 1, length),
        step_from_blocks(outputs, Late("out"), samples, rows, dtype),
    )


@lru_cache(maxsize=256)
def _backward_program(
    sizes: _Sizes, dtype: torch.dtype, grad_dtype: torch.dtype, need_x: bool, need_weight: bool
) -> Program:
    samples, rows, columns, row_parts, column_parts, _ = sizes
    n_blocks, length = partition(samples)
    grads, inputs, outputs = Late("grads"), Late("inputs"), Late("outputs")
    g, x = view_of(grads, rows, length), view_of(inputs, columns, length)
    found = [step_to_blocks(Late("grad"), grads, samples, rows, grad_dtype)]
    if need_x:
        matrix = Matrix(Late("column_parts"), Late("rows"), length, column_parts, columns)
        ordered, y = Late("ordered"), view_of(outputs, columns, length)
        found += [
            ordered_by_column_step(Late("values"), Late("column_starts"), Late("by_column"), ordered, columns),
            product_step(matrix, ordered, g, y, None, n_blocks, 1, length),
            step_from_blocks(outputs, Late("grad_x"), samples, columns, dtype),
        ]
    if need_weight:
        matrix = Matrix(Late("row_parts"), Late("columns"), length, row_parts, rows)
        found += [
            step_to_blocks(Late("x"), inputs, samples, columns, dtype),
            # Blocks are visited as lines of one block, so that their sums stay in registers.
            sampled_product_step(matrix, x, g, 1, n_blocks, length, columns, Late("gradients")),
        ]
    return Program(*found)
