"""Compiled jobs of the recurrent layers: all time steps in one call, forward and backward through time.

A task is a tile of samples, which no other task reads, so threads never wait for one another within a sequence.
Everything is float32: states (time, units, batch) and gates (time, units, gates, batch), those of one unit side by
side. (Apart by a power of two, they would evict each other from the cache.)
"""

from __future__ import annotations

from typing import NamedTuple

from numba import types

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.cells import gru_cell, gru_cell_backward, lstm_cell, lstm_cell_backward
from rigl_lightning.kernels.compiled.ir import WIDTH, load_f32, load_i32
from rigl_lightning.kernels.compiled.rows import Row, product_row
from rigl_lightning.kernels.settings import Floats, Ints


class Recurrence(NamedTuple):
    """Settings of `gru_job` and `lstm_job`; the recurrent weight by row. Only a GRU has the bias."""

    tile: int
    batch: int
    times: int
    units: int
    starts: Ints
    columns: Ints
    values: Floats
    bias: Floats
    gates: Floats
    hidden: Floats
    states: Floats


class Backward(NamedTuple):
    """Settings of `gru_backward_job` and `lstm_backward_job`; the recurrent weight by column.

    ``grad_other`` are the gradients of a GRU's recurrent shares, or of an LSTM's cell state.
    """

    tile: int
    batch: int
    times: int
    units: int
    starts: Ints
    rows: Ints
    values: Floats
    gates: Floats
    hidden: Floats
    states: Floats
    grad_out: Floats
    grad: Floats
    grad_gates: Floats
    grad_other: Floats


@job(Recurrence)
def gru_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """GRU: ``gates`` hold the input's share and become r, z and n; ``states`` are filled from the second on.

    ``hidden`` (time, units, batch) becomes the recurrent share of n, which the backward pass reads.
    """
    tile, batch, units, starts, columns, values = s.tile, s.batch, s.units, s.starts, s.columns, s.values
    zero = types.float32(0.0)
    line, column, n_vectors, last = 4 * batch, 4 * task * tile, tile // WIDTH, tile - WIDTH
    for t in range(s.times):
        state = s.states + line * t * units + column
        after = state + line * units
        r = s.gates + line * t * 3 * units + column
        h = s.hidden + line * t * units + column
        for j in range(units):
            z, n = r + line, r + 2 * line
            for gate in range(2):
                row = gate * units + j
                k0, k1 = load_i32(starts, row), load_i32(starts, row + 1)
                out = r + gate * line
                product_row(n_vectors, Row(state, columns, batch, values, k0, k1, out, last, out, zero), None)
            first = load_f32(s.bias, j) if s.bias != 0 else zero
            k0, k1 = load_i32(starts, 2 * units + j), load_i32(starts, 2 * units + j + 1)
            product_row(n_vectors, Row(state, columns, batch, values, k0, k1, h, last, 0, first), None)
            gru_cell(tile, (r, z, n, h, state + line * j, r, z, n, after + line * j))
            r += 3 * line
            h += line


@job(Backward)
def gru_backward_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """GRU backward: gradients of both shares of the gates, and of the first state, which ``grad`` becomes."""
    tile, batch, units, starts, zero = s.tile, s.batch, s.units, s.starts, types.float32(0.0)
    line, column, n_vectors, last = 4 * batch, 4 * task * tile, tile // WIDTH, tile - WIDTH
    for step in range(s.times):
        t = s.times - 1 - step
        for j in range(units):
            one = column + line * (t * units + j)
            three = column + line * 3 * (t * units + j)
            r, gi, gh, d = s.gates + three, s.grad_gates + three, s.grad_other + three, s.grad + column + line * j
            inputs = (r, r + line, r + 2 * line, s.hidden + one, s.states + one, s.grad_out + one, d)
            outputs = (gi, gi + line, gi + 2 * line, gh, gh + line, gh + 2 * line, d)
            gru_cell_backward(tile, inputs + outputs)
        source = s.grad_other + column + line * t * 3 * units
        for j in range(units):
            k0, k1 = load_i32(starts, j), load_i32(starts, j + 1)
            d = s.grad + column + line * j
            product_row(n_vectors, Row(source, s.rows, batch, s.values, k0, k1, d, last, d, zero), None)


@job(Recurrence)
def lstm_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """LSTM: ``gates`` hold the input's share and become i, f, g and o; ``states`` are filled from the second on.

    ``hidden`` are the cell states, (time + 1, units, batch), filled from the second on.
    """
    tile, batch, units, starts, zero = s.tile, s.batch, s.units, s.starts, types.float32(0.0)
    line, column, n_vectors, last = 4 * batch, 4 * task * tile, tile // WIDTH, tile - WIDTH
    for t in range(s.times):
        state = s.states + line * t * units + column
        for j in range(units):
            i = s.gates + line * 4 * (t * units + j) + column
            for part in range(4):
                row = part * units + j
                k0, k1 = load_i32(starts, row), load_i32(starts, row + 1)
                out = i + part * line
                product_row(n_vectors, Row(state, s.columns, batch, s.values, k0, k1, out, last, out, zero), None)
            f, g, o = i + line, i + 2 * line, i + 3 * line
            cell, h = s.hidden + line * (t * units + j) + column, state + line * j
            lstm_cell(tile, (i, f, g, o, cell, i, f, g, o, cell + line * units, h + line * units))


@job(Backward)
def lstm_backward_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """LSTM backward: gradients of the gates, and of the first states, which ``grad`` and ``grad_other`` become."""
    tile, batch, units, starts, zero = s.tile, s.batch, s.units, s.starts, types.float32(0.0)
    line, column, n_vectors, last = 4 * batch, 4 * task * tile, tile // WIDTH, tile - WIDTH
    for step in range(s.times):
        t = s.times - 1 - step
        for j in range(units):
            one = column + line * (t * units + j)
            four = column + line * 4 * (t * units + j)
            i, gi, after = s.gates + four, s.grad_gates + four, s.hidden + one + line * units
            d, dc = s.grad + column + line * j, s.grad_other + column + line * j
            inputs = (i, i + line, i + 2 * line, i + 3 * line, s.hidden + one, after)
            outputs = (gi, gi + line, gi + 2 * line, gi + 3 * line, dc)
            lstm_cell_backward(tile, inputs + (s.grad_out + one, d, dc) + outputs)  # noqa: RUF005 (numba)
        source = s.grad_gates + column + line * t * 4 * units
        for j in range(units):
            k0, k1 = load_i32(starts, j), load_i32(starts, j + 1)
            d = s.grad + column + line * j
            product_row(n_vectors, Row(source, s.rows, batch, s.values, k0, k1, d, last, 0, zero), None)
