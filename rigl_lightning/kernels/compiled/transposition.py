"""Transposed copies of many small matrices, also between float32 and bfloat16.

The products themselves know float32 only. Their operands lie in another order than rows and images do, so a layer
copies them in any case, and widens or rounds them on the way.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.cache import Job, job
from rigl_lightning.kernels.compiled.elements import BFLOAT, FLOAT, Element, copy_element, transpose_square
from rigl_lightning.kernels.compiled.ir import load_i64
from rigl_lightning.kernels.settings import Bfloats, Floats, Late, Longs, Place
from rigl_lightning.kernels.threads import Step

NEAR, FAR = 16, 64
"""Rows that are copied together: as many as fill a line of the cache, or four lines of a page, for each column."""


class Planes(NamedTuple):
    """One side of `transpose`: where its planes and lines lie, in elements.

    Attributes:
        tensor: Its memory, float32 or bfloat16 on one side, float32 on the other.
        block: From one block to the next.
        plane: From one plane to the next.
        lines: int64 offset of each line of a plane.
        start: First element.
        dtype: Of the tensor, if it is known at the call only.
    """

    tensor: Tensor | Late
    block: int
    plane: int
    lines: Tensor
    start: int = 0
    dtype: torch.dtype = torch.float32

    @property
    def place(self) -> Place | Late:
        """The first element."""
        return self.tensor if isinstance(self.tensor, Late) else Place(self.tensor, self.start)

    @property
    def is_bfloat16(self) -> bool:
        """Whether the elements are bfloat16."""
        return (self.dtype if isinstance(self.tensor, Late) else self.tensor.dtype) is torch.bfloat16


class Axis(NamedTuple):
    """One axis of the matrices that `transpose` copies.

    Attributes:
        offsets: int64 offset of each index, in elements.
        all: Indices of all blocks together; the last block has what is left.
    """

    offsets: Tensor
    all: int


class Transposition(NamedTuple):
    """Settings of the job."""

    source: Floats
    source_block: int
    source_plane: int
    source_lines: Longs
    target: Floats
    target_block: int
    target_plane: int
    target_lines: Longs
    n_planes: int
    n_lines: int
    source_rows: Longs
    n_rows: int
    all_rows: int
    target_columns: Longs
    n_columns: int
    all_columns: int
    rows_at_once: int


def _of_bfloat16(name: str, side: str) -> Any:
    """`Transposition` with one side in bfloat16."""
    hints = get_type_hints(Transposition, include_extras=True)
    return NamedTuple(name, [(field, Bfloats if field == side else hint) for field, hint in hints.items()])


Widening = _of_bfloat16("Widening", "source")
Rounding = _of_bfloat16("Rounding", "target")


def transposition_body(square: Any, copy: Any, source_size: int, target_size: int) -> Any:
    """The task of a job, of the instructions that copy a square and an element, and the bytes of elements."""

    def body(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
        """Each task is one plane of one block.

        ``target[block, plane, line, target_columns[j] + i] = source[block, plane, line, source_rows[i] + j]``. The
        last block may have fewer rows i or columns j; offsets of lines, rows and columns are tables of int64. So many
        rows are copied before the next columns: all that fill a line of the cache, while it is there.
        """
        source_rows, target_columns = s.source_rows, s.target_columns
        plane, block = task % s.n_planes, task // s.n_planes
        height = max(0, min(s.n_rows, s.all_rows - block * s.n_rows))
        width = max(0, min(s.n_columns, s.all_columns - block * s.n_columns))
        high, wide = height // 8 * 8, width // 8 * 8
        for line in range(s.n_lines):
            first = block * s.source_block + plane * s.source_plane + load_i64(s.source_lines, line)
            source = s.source + source_size * first
            first = block * s.target_block + plane * s.target_plane + load_i64(s.target_lines, line)
            target = s.target + target_size * first
            for first in range(0, high, s.rows_at_once):
                for j in range(0, wide, 8):
                    for i in range(first, min(first + s.rows_at_once, high), 8):
                        rows, columns = source_rows + 8 * i, target_columns + 8 * j
                        square(source + source_size * j, rows, target + target_size * i, columns)
            for i in range(height):
                for j in range(wide if i < high else 0, width):
                    copy(source, load_i64(source_rows, i) + j, target, load_i64(target_columns, j) + i)

    return body


def _transposition_job(settings: Any, source: Element, target: Element) -> Job:
    square, copy = transpose_square(source, target), copy_element(source, target)
    body = transposition_body(square, copy, source.size, target.size)
    body.__name__ = f"transpose_{source.name}_{target.name}"
    return job(settings)(body)


_JOBS: dict[tuple[bool, bool], tuple[Any, Job]] = {
    (False, False): (Transposition, _transposition_job(Transposition, FLOAT, FLOAT)),
    (True, False): (Widening, _transposition_job(Widening, BFLOAT, FLOAT)),
    (False, True): (Rounding, _transposition_job(Rounding, FLOAT, BFLOAT)),
}


def transpose(
    source: Planes, rows: Axis, target: Planes, columns: Axis, n_blocks: int, n_planes: int, is_far: bool = False
) -> None:
    """``target[columns.offsets[j] + i] = source[rows.offsets[i] + j]``, in every line of every plane and block.

    Args:
        source: What is read.
        rows: Its rows.
        target: What is written.
        columns: Its rows, which are columns of the source.
        n_blocks: Blocks of both.
        n_planes: Planes of both.
        is_far: Whether columns lie further apart in the target than rows in the source, by pages of memory.
    """
    transposition(source, rows, target, columns, n_blocks, n_planes, is_far).run({})


def transposition(
    source: Planes, rows: Axis, target: Planes, columns: Axis, n_blocks: int, n_planes: int, is_far: bool = False
) -> Step:
    """`transpose`, to be run later."""
    settings, compiled = _JOBS[source.is_bfloat16, target.is_bfloat16]
    filled = settings(
        source=source.place,
        source_block=source.block,
        source_plane=source.plane,
        source_lines=source.lines,
        target=target.place,
        target_block=target.block,
        target_plane=target.plane,
        target_lines=target.lines,
        n_planes=n_planes,
        n_lines=source.lines.shape[0],
        source_rows=rows.offsets,
        n_rows=rows.offsets.shape[0],
        all_rows=rows.all,
        target_columns=columns.offsets,
        n_columns=columns.offsets.shape[0],
        all_columns=columns.all,
        rows_at_once=FAR if is_far else NEAR,
    )
    return Step(compiled, n_blocks * n_planes, filled)
