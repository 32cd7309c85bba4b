"""Compiled jobs of the fast tier: sparse × dense, sampled dense × dense, gathering and scattering.

The named tuple before a job is the one place where its settings are named. Distances are in elements; in the jobs
themselves a tensor is its address.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import types

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import (
    WIDTH,
    gradient_group,
    load_f32,
    load_i32,
    store_f32,
    store_i32,
)
from rigl_lightning.kernels.compiled.rows import Row, product_row, tiles_of, vectors_of
from rigl_lightning.kernels.settings import Floats, Ints

_group_8, _group_4, _group_2, _group_1 = (gradient_group(size) for size in (8, 4, 2, 1))


class Product(NamedTuple):
    """Settings of `product_job`."""

    x: Floats
    x_block: int
    x_line: int
    y: Floats
    y_block: int
    y_line: int
    y_row: int
    parts: Ints
    n_parts: int
    columns: Ints
    scale: int
    values: Floats
    bias: Floats
    n_rows: int
    n_chunks: int
    n_lines: int
    length: int


@job(Product)
def product_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """Sparse × dense: each task is one line of one block, and one chunk of rows.

    ``y[block, row, line, p] = bias[row] + sum of values[k] * x[block, line, columns[k] * scale + p]``.
    """
    n_rows, length, zero = s.n_rows, s.length, types.float32(0.0)
    chunk, line, block = task % s.n_chunks, task // s.n_chunks % s.n_lines, task // s.n_chunks // s.n_lines
    bottom, top = n_rows * chunk // s.n_chunks, n_rows * (chunk + 1) // s.n_chunks
    x = s.x + 4 * (block * s.x_block + line * s.x_line)
    y = s.y + 4 * (block * s.y_block + line * s.y_line)
    if length < WIDTH:
        for r in range(bottom, top):
            for p in range(length):
                total = load_f32(s.bias, r) if s.bias != 0 else zero
                for k in range(load_i32(s.parts, r), load_i32(s.parts + 4 * s.n_parts * n_rows, r)):
                    total += load_f32(s.values, k) * load_f32(x, load_i32(s.columns, k) * s.scale + p)
                store_f32(y, r * s.y_row + p, total)
        return
    n_tiles = tiles_of(length)
    for tile in range(n_tiles):
        n, p, last = vectors_of(tile, n_tiles, length)
        for part in range(s.n_parts):
            starts = s.parts + 4 * part * n_rows
            for r in range(bottom, top):
                k0, k1 = load_i32(starts, r), load_i32(starts + 4 * n_rows, r)
                out, more = y + 4 * (r * s.y_row + p), types.int64(0)
                first = load_f32(s.bias, r) if s.bias != 0 and part == 0 else zero
                if part:
                    if k0 == k1:
                        continue
                    more = out
                row = Row(x + 4 * p, s.columns, s.scale, s.values, k0, k1, out, last, more, first)
                product_row(n, row, None)


class Sampled(NamedTuple):
    """Settings of `gradient_job`."""

    x: Floats
    x_block: int
    x_line: int
    g: Floats
    g_block: int
    g_line: int
    g_row: int
    parts: Ints
    n_parts: int
    columns: Ints
    scale: int
    out: Floats
    n_rows: int
    n_blocks: int
    n_lines: int
    length: int
    step: int
    piece: int


@job(Sampled)
def gradient_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Sampled dense × dense: each task is a range of rows.

    ``out[k] += sum of g[block, row, line, p] * x[block, line, columns[k] * scale + p]``, visited in pieces of
    ``step`` lines and ``piece`` positions, whose inputs stay in the cache.
    """
    x_line, g_line, columns, scale, out = s.x_line, s.g_line, s.columns, s.scale, s.out
    n_line_pieces, n_pieces = (s.n_lines + s.step - 1) // s.step, (s.length + s.piece - 1) // s.piece
    bottom, top = s.n_rows * task // n_tasks, s.n_rows * (task + 1) // n_tasks
    for visit in range(s.n_blocks * n_line_pieces * n_pieces * s.n_parts):
        part = visit % s.n_parts
        p = visit // s.n_parts % n_pieces * s.piece
        line = visit // s.n_parts // n_pieces % n_line_pieces * s.step
        block = visit // s.n_parts // n_pieces // n_line_pieces
        lines, positions = min(s.step, s.n_lines - line), min(s.piece, s.length - p)
        starts = s.parts + 4 * part * s.n_rows
        xt = s.x + 4 * (block * s.x_block + line * x_line + p)
        gt = s.g + 4 * (block * s.g_block + line * g_line + p)
        for r in range(bottom, top):
            k, end = load_i32(starts, r), load_i32(starts + 4 * s.n_rows, r)
            gr = gt + 4 * r * s.g_row
            while end - k >= 8:
                _group_8(xt, x_line, columns, scale, gr, g_line, lines, positions, k, out)
                k += 8
            if end - k >= 4:
                _group_4(xt, x_line, columns, scale, gr, g_line, lines, positions, k, out)
                k += 4
            if end - k >= 2:
                _group_2(xt, x_line, columns, scale, gr, g_line, lines, positions, k, out)
                k += 2
            if end - k >= 1:
                _group_1(xt, x_line, columns, scale, gr, g_line, lines, positions, k, out)


class Indexed(NamedTuple):
    """Settings of `gather_job` and `scatter_job`."""

    source: Floats
    stride: int
    starts: Ints
    indices: Ints
    out: Floats
    n_rows: int


@job(Indexed)
def gather_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """``out[k] = source[row * stride + indices[k]]`` for every k of every row; each task is a range of rows."""
    for r in range(s.n_rows * task // n_tasks, s.n_rows * (task + 1) // n_tasks):
        row = s.source + 4 * r * s.stride
        for k in range(load_i32(s.starts, r), load_i32(s.starts, r + 1)):
            store_f32(s.out, k, load_f32(row, load_i32(s.indices, k)))


@job(Indexed)
def scatter_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """``out[row, indices[k]] = source[k]`` and 0 elsewhere, in rows of ``stride``; each task is a range of rows."""
    for r in range(s.n_rows * task // n_tasks, s.n_rows * (task + 1) // n_tasks):
        row = s.out + 4 * r * s.stride
        for p in range(s.stride):
            store_f32(row, p, types.float32(0.0))
        for k in range(load_i32(s.starts, r), load_i32(s.starts, r + 1)):
            store_f32(row, load_i32(s.indices, k), load_f32(s.source, k))


class Grouping(NamedTuple):
    """Settings of `group_job`; ``starts``, ``columns`` and ``values`` are the connections by row."""

    starts: Ints
    columns: Ints
    values: Floats
    groups: Ints
    shifts: Ints
    parts: Ints
    offsets: Ints
    ordered: Floats
    n_rows: int
    n_groups: int
    plane: int


@job(Grouping)
def group_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Connections sorted by the group of their column; within a group the order by row stays. One task.

    ``parts`` (2, groups), zero at first, becomes where each group begins and ends; ``offsets`` of a connection is
    ``row * plane + shifts[column]``, and ``ordered`` its value.
    """
    ends = s.parts + 4 * s.n_groups
    for k in range(load_i32(s.starts, 0), load_i32(s.starts, s.n_rows)):
        group = load_i32(s.groups, load_i32(s.columns, k))
        store_i32(ends, group, load_i32(ends, group) + 1)
    total = types.int64(0)
    for group in range(s.n_groups):
        store_i32(s.parts, group, total)
        total += load_i32(ends, group)
        store_i32(ends, group, load_i32(s.parts, group))
    for row in range(s.n_rows):
        for k in range(load_i32(s.starts, row), load_i32(s.starts, row + 1)):
            column = load_i32(s.columns, k)
            group = load_i32(s.groups, column)
            place = load_i32(ends, group)
            store_i32(ends, group, place + 1)
            store_i32(s.offsets, place, row * s.plane + load_i32(s.shifts, column))
            store_f32(s.ordered, place, load_f32(s.values, k))
