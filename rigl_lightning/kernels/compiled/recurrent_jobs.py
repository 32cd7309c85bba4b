"""Compiled jobs of the recurrent layers: all time steps in one call, forward and backward through time.

A task is a tile of samples, which no other task reads, so threads never wait for one another within a sequence.
Settings as in `jobs`; `recurrent` fills them in. Everything is float32: states (time, units, batch) and
gates (time, units, gates, batch), those of one unit side by side. (Apart by a power of two, they would evict each other
from the cache.)
"""

from __future__ import annotations

from numba import njit, types

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.cells import gru_cell, gru_cell_backward, lstm_cell, lstm_cell_backward
from rigl_lightning.kernels.compiled.ir import TILES, WIDTH, load_f32, load_i32, load_i64, next_task, product_row

_row_8, _row_4, _row_2, _row_1 = (product_row(tile) for tile in TILES)


@njit(nogil=True)
def _row(tile, x, columns, scale, values, start, stop, y, first, add):  # type: ignore[no-untyped-def]
    if tile == 8 * WIDTH:
        _row_8(x, columns, scale, values, start, stop, y, first, add)
    elif tile == 4 * WIDTH:
        _row_4(x, columns, scale, values, start, stop, y, first, add)
    elif tile == 2 * WIDTH:
        _row_2(x, columns, scale, values, start, stop, y, first, add)
    else:
        _row_1(x, columns, scale, values, start, stop, y, first, add)


@job
def gru_job(a):  # type: ignore[no-untyped-def]
    """GRU: ``gates`` hold the input's share and become r, z and n; ``states`` are filled from the second on.

    ``hidden`` (time, units, batch) becomes the recurrent share of n, which the backward pass reads.
    """
    tile, batch, times, units = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    starts, columns, values, bias = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8), load_i64(a, 9)
    gates, hidden, states = load_i64(a, 10), load_i64(a, 11), load_i64(a, 12)
    zero = types.float32(0.0)
    line = 4 * batch
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        for t in range(times):
            state = states + line * t * units + 4 * task * tile
            after = state + line * units
            r = gates + line * t * 3 * units + 4 * task * tile
            h = hidden + line * t * units + 4 * task * tile
            for j in range(units):
                z, n = r + line, r + 2 * line
                for gate in range(2):
                    row = gate * units + j
                    k0, k1 = load_i32(starts, row), load_i32(starts, row + 1)
                    _row(tile, state, columns, batch, values, k0, k1, r + gate * line, zero, 1)
                first = load_f32(bias, j) if bias != 0 else zero
                k0, k1 = load_i32(starts, 2 * units + j), load_i32(starts, 2 * units + j + 1)
                _row(tile, state, columns, batch, values, k0, k1, h, first, 0)
                gru_cell(tile, (r, z, n, h, state + line * j, r, z, n, after + line * j))
                r += 3 * line
                h += line


@job
def gru_backward_job(a):  # type: ignore[no-untyped-def]
    """GRU backward: gradients of both shares of the gates, and of the first state, which ``grad`` becomes."""
    tile, batch, times, units = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    starts, rows, values = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    gates, hidden, states = load_i64(a, 9), load_i64(a, 10), load_i64(a, 11)
    grad_out, grad, grad_gates, grad_hidden = load_i64(a, 12), load_i64(a, 13), load_i64(a, 14), load_i64(a, 15)
    line = 4 * batch
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        column = 4 * task * tile
        for step in range(times):
            t = times - 1 - step
            for j in range(units):
                one = column + line * (t * units + j)
                three = column + line * 3 * (t * units + j)
                r, gi, gh, d = gates + three, grad_gates + three, grad_hidden + three, grad + column + line * j
                inputs = (r, r + line, r + 2 * line, hidden + one, states + one, grad_out + one, d)
                outputs = (gi, gi + line, gi + 2 * line, gh, gh + line, gh + 2 * line, d)
                gru_cell_backward(tile, inputs + outputs)
            source = grad_hidden + column + line * t * 3 * units
            for j in range(units):
                k0, k1 = load_i32(starts, j), load_i32(starts, j + 1)
                d = grad + column + line * j
                _row(tile, source, rows, batch, values, k0, k1, d, types.float32(0.0), 1)


@job
def lstm_job(a):  # type: ignore[no-untyped-def]
    """LSTM: ``gates`` hold the input's share and become i, f, g and o; ``states`` are filled from the second on.

    ``hidden`` are the cell states, (time + 1, units, batch), filled from the second on.
    """
    tile, batch, times, units = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    starts, columns, values = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    gates, hidden, states = load_i64(a, 10), load_i64(a, 11), load_i64(a, 12)
    line = 4 * batch
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        for t in range(times):
            state = states + line * t * units + 4 * task * tile
            for j in range(units):
                i = gates + line * 4 * (t * units + j) + 4 * task * tile
                for part in range(4):
                    row = part * units + j
                    k0, k1 = load_i32(starts, row), load_i32(starts, row + 1)
                    _row(tile, state, columns, batch, values, k0, k1, i + part * line, types.float32(0.0), 1)
                f, g, o = i + line, i + 2 * line, i + 3 * line
                cell, h = hidden + line * (t * units + j) + 4 * task * tile, state + line * j
                lstm_cell(tile, (i, f, g, o, cell, i, f, g, o, cell + line * units, h + line * units))


@job
def lstm_backward_job(a):  # type: ignore[no-untyped-def]
    """LSTM backward: gradients of the gates, and of the first states, which ``grad`` and ``grad_cell`` become."""
    tile, batch, times, units = load_i64(a, 2), load_i64(a, 3), load_i64(a, 4), load_i64(a, 5)
    starts, rows, values = load_i64(a, 6), load_i64(a, 7), load_i64(a, 8)
    gates, hidden = load_i64(a, 9), load_i64(a, 10)
    grad_out, grad, grad_gates, grad_cell = load_i64(a, 12), load_i64(a, 13), load_i64(a, 14), load_i64(a, 15)
    line = 4 * batch
    while True:
        task = next_task(a + 8)
        if task >= load_i64(a, 0):
            return
        column = 4 * task * tile
        for step in range(times):
            t = times - 1 - step
            for j in range(units):
                one = column + line * (t * units + j)
                four = column + line * 4 * (t * units + j)
                i, gi, after = gates + four, grad_gates + four, hidden + one + line * units
                d, dc = grad + column + line * j, grad_cell + column + line * j
                inputs = (i, i + line, i + 2 * line, i + 3 * line, hidden + one, after)
                outputs = (gi, gi + line, gi + 2 * line, gi + 3 * line, dc)
                lstm_cell_backward(tile, inputs + (grad_out + one, d, dc) + outputs)  # noqa: RUF005 (numba)
            source = grad_gates + column + line * t * 4 * units
            for j in range(units):
                k0, k1 = load_i32(starts, j), load_i32(starts, j + 1)
                d = grad + column + line * j
                _row(tile, source, rows, batch, values, k0, k1, d, types.float32(0.0), 0)
