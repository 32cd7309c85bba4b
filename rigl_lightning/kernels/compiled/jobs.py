"""Compiled jobs of the fast tier: sparse × dense, sampled dense × dense, and transposition.

A job is a C function of one argument, the address of an array of int64 settings. The first is the number of tasks,
the second counts those taken; every thread that calls the job takes tasks until none is left. So one thread and
many run the same code. `products` names the settings and fills them in.
"""

from __future__ import annotations

from numba import types

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import (
    TILES,
    WIDTH,
    gradient_group,
    load_f32,
    load_i32,
    load_i64,
    next_task,
    product_row,
    store_f32,
    transpose_8x8,
)

_row_8, _row_4, _row_2, _row_1 = (product_row(tile) for tile in TILES)
_group_8, _group_4, _group_2, _group_1 = (gradient_group(size) for size in (8, 4, 2, 1))
# Plain loops without helper functions, so that numba caches every job by itself.


@job
def product_job(a):  # type: ignore[no-untyped-def]  # numba has no types
    """Sparse × dense: each task is one line of one block, and one chunk of rows.

    ``y[block, row, line, p] = bias[row] + sum of values[k] * x[block, line, columns[k] * scale + p]``.
    """
    x, x_block, x_line = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4)
    y, y_block, y_line, y_row = load_i64(a, 5), load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    parts, n_parts = load_i64(a, 9), load_i64(a, 10)
    columns, scale, values, bias = load_i64(a, 11), load_i64(a, 12), load_i64(a, 13), load_i64(a, 14)
    n_rows, n_chunks = load_i64(a, 15), load_i64(a, 16)
    n_lines, length = load_i64(a, 17), load_i64(a, 18)
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        chunk, line, block = task % n_chunks, task // n_chunks % n_lines, task // n_chunks // n_lines
        bottom, top = n_rows * chunk // n_chunks, n_rows * (chunk + 1) // n_chunks
        xt = x + 4 * (block * x_block + line * x_line)
        yt = y + 4 * (block * y_block + line * y_line)
        left = length
        while left >= WIDTH:
            tile = 8 * WIDTH
            while tile > left:
                tile //= 2
            for part in range(n_parts):
                starts = parts + 4 * part * n_rows
                for r in range(bottom, top):
                    first = load_f32(bias, r) if bias != 0 else types.float32(0.0)
                    k0, k1 = load_i32(starts, r), load_i32(starts + 4 * n_rows, r)
                    out = yt + 4 * r * y_row
                    if tile == 8 * WIDTH:
                        _row_8(xt, columns, scale, values, k0, k1, out, first, part)
                    elif tile == 4 * WIDTH:
                        _row_4(xt, columns, scale, values, k0, k1, out, first, part)
                    elif tile == 2 * WIDTH:
                        _row_2(xt, columns, scale, values, k0, k1, out, first, part)
                    else:
                        _row_1(xt, columns, scale, values, k0, k1, out, first, part)
            xt += 4 * tile
            yt += 4 * tile
            left -= tile
            if 0 < left < WIDTH:
                # The last vector begins within the one before: the same outputs are written twice.
                xt -= 4 * (WIDTH - left)
                yt -= 4 * (WIDTH - left)
                left = WIDTH
        for r in range(bottom, top):
            for p in range(left):
                total = load_f32(bias, r) if bias != 0 else types.float32(0.0)
                for k in range(load_i32(parts, r), load_i32(parts + 4 * n_parts * n_rows, r)):
                    total += load_f32(values, k) * load_f32(xt, load_i32(columns, k) * scale + p)
                store_f32(yt, r * y_row + p, total)


@job
def gradient_job(a):  # type: ignore[no-untyped-def]
    """Sampled dense × dense: each task is a range of rows.

    ``out[k] += sum of g[block, row, line, p] * x[block, line, columns[k] * scale + p]``, visited in pieces of
    ``step`` lines and ``piece`` positions, whose inputs stay in the cache.
    """
    n_tasks = load_i64(a, 0)
    x, x_block, x_line = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4)
    g, g_block, g_line, g_row = load_i64(a, 5), load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    parts, n_parts = load_i64(a, 9), load_i64(a, 10)
    columns, scale, out = load_i64(a, 11), load_i64(a, 12), load_i64(a, 13)
    n_rows, n_blocks, n_lines, length = load_i64(a, 14), load_i64(a, 15), load_i64(a, 16), load_i64(a, 17)
    step, piece = load_i64(a, 18), load_i64(a, 19)
    n_line_pieces, n_pieces = (n_lines + step - 1) // step, (length + piece - 1) // piece
    while True:
        task = next_task(a + 8)
        if task >= n_tasks:
            return
        bottom, top = n_rows * task // n_tasks, n_rows * (task + 1) // n_tasks
        for visit in range(n_blocks * n_line_pieces * n_pieces * n_parts):
            part = visit % n_parts
            p = visit // n_parts % n_pieces * piece
            line = visit // n_parts // n_pieces % n_line_pieces * step
            block = visit // n_parts // n_pieces // n_line_pieces
            lines, positions = min(step, n_lines - line), min(piece, length - p)
            starts = parts + 4 * part * n_rows
            xt = x + 4 * (block * x_block + line * x_line + p)
            gt = g + 4 * (block * g_block + line * g_line + p)
            for r in range(bottom, top):
                k, end = load_i32(starts, r), load_i32(starts + 4 * n_rows, r)
                gr = gt + 4 * r * g_row
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


@job
def transpose_job(a):  # type: ignore[no-untyped-def]
    """Transposed copy of many small matrices: each task is one plane of one block.

    ``target[block, plane, line, target_columns[j] + i] = source[block, plane, line, source_rows[i] + j]``. The last
    block may have fewer rows i or columns j; offsets of lines, rows and columns are tables of int64.
    """
    source, source_block, source_plane, source_lines = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    target, target_block, target_plane, target_lines = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8), load_i64(a, 9)
    n_planes, n_lines = load_i64(a, 10), load_i64(a, 11)
    source_rows, n_rows, all_rows = load_i64(a, 12), load_i64(a, 13), load_i64(a, 14)
    target_columns, n_columns, all_columns = load_i64(a, 15), load_i64(a, 16), load_i64(a, 17)
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        plane, block = task % n_planes, task // n_planes
        height = max(0, min(n_rows, all_rows - block * n_rows))
        width = max(0, min(n_columns, all_columns - block * n_columns))
        high, wide = height // 8 * 8, width // 8 * 8
        for line in range(n_lines):
            s = source + 4 * (block * source_block + plane * source_plane + load_i64(source_lines, line))
            t = target + 4 * (block * target_block + plane * target_plane + load_i64(target_lines, line))
            for i in range(0, high, 8):
                for j in range(0, wide, 8):
                    transpose_8x8(s + 4 * j, source_rows + 8 * i, t + 4 * i, target_columns + 8 * j)
            for i in range(height):
                for j in range(wide if i < high else 0, width):
                    store_f32(t, load_i64(target_columns, j) + i, load_f32(s, load_i64(source_rows, i) + j))


@job
def gather_job(a):  # type: ignore[no-untyped-def]
    """``out[k] = source[row * stride + indices[k]]`` for every k of every row; each task is a range of rows."""
    source, stride, starts, indices = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    out, n_rows = load_i64(a, 6), load_i64(a, 7)
    n_tasks = load_i64(a, 0)
    while True:
        task = next_task(a + 8)
        if task >= n_tasks:
            return
        for r in range(n_rows * task // n_tasks, n_rows * (task + 1) // n_tasks):
            row = source + 4 * r * stride
            for k in range(load_i32(starts, r), load_i32(starts, r + 1)):
                store_f32(out, k, load_f32(row, load_i32(indices, k)))


@job
def scatter_job(a):  # type: ignore[no-untyped-def]
    """``out[row, indices[k]] = values[k]`` and 0 elsewhere, in rows of ``stride``; each task is a range of rows."""
    values, stride, starts, indices = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    out, n_rows = load_i64(a, 6), load_i64(a, 7)
    n_tasks = load_i64(a, 0)
    while True:
        task = next_task(a + 8)
        if task >= n_tasks:
            return
        for r in range(n_rows * task // n_tasks, n_rows * (task + 1) // n_tasks):
            row = out + 4 * r * stride
            for p in range(stride):
                store_f32(row, p, types.float32(0.0))
            for k in range(load_i32(starts, r), load_i32(starts, r + 1)):
                store_f32(row, load_i32(indices, k), load_f32(values, k))
