"""GRU and LSTM layers of the fast tier, over a whole sequence.

Sequences become (time, features, batch): a time step's samples lie side by side, and a step is one contiguous block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.ir import TILES
from rigl_lightning.kernels.compiled.linear import connection_gradients, multiply
from rigl_lightning.kernels.compiled.products import Axis, Matrix, Planes, transpose
from rigl_lightning.kernels.compiled.recurrent_jobs import gru_backward_job, gru_job, lstm_backward_job, lstm_job
from rigl_lightning.kernels.compiled.values import gather, ordered_by_column, scatter
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.recurrent_types import Gradients, Patterns, Saved, Weights
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import scratch


def forward(x: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns) -> tuple[list[Tensor], Saved]:
    """Run over a sequence (time, batch, features) from ``states``, (batch, units): [h] of a GRU or [h, c] of an LSTM.

    Returns:
        The outputs (time, batch, units) and the last states, and what `backward` reads.
    """
    times, batch, _ = x.shape
    units, tile = states[0].shape[1], _tile(batch)
    inputs = _pack(x, "inputs")
    is_lstm = len(states) == 2
    bias, hidden_bias = _biases(weights, units, is_lstm)
    # The input's share of every step at once; the job adds the recurrent share.
    gates = multiply(inputs, gather(weights.weight_ih, patterns.ih), _by_unit(patterns.ih, inputs, units), bias)
    width = inputs.shape[2]
    hs = torch.empty(times + 1, units, width)
    hidden = torch.empty(times + 1 if is_lstm else times, units, width)
    for target, state in zip((hs, hidden), states, strict=False):
        target[0].zero_()
        target[0, :, :batch] = state.t()
    values = gather(weights.weight_hh, patterns.hh)
    settings = [tile, width, times, units, patterns.hh.row_starts.data_ptr(), patterns.hh.columns.data_ptr()]
    settings += [values.data_ptr(), hidden_bias.data_ptr() if hidden_bias is not None else 0]
    settings += [gates.data_ptr(), hidden.data_ptr(), hs.data_ptr()]
    run(lstm_job if is_lstm else gru_job, width // tile, settings)
    last = [s[-1, :, :batch].t().clone(memory_format=torch.contiguous_format) for s in (hs, hidden)[: len(states)]]
    return [_unpack(hs[1:], batch, _batch_first(x)), *last], Saved(gates, hidden, hs)


def backward(
    grads: list[Tensor], x: Tensor, weights: Weights, patterns: Patterns, saved: Saved, dense_grad: bool = False
) -> Gradients:
    """Gradients from those of the outputs (time, batch, units) and of the last states (batch, units)."""
    times, batch, _ = x.shape
    tile, is_lstm = _tile(batch), len(grads) == 3
    inputs, grad_out = _pack(x, "inputs"), _pack(grads[0], "grad_out")
    units, width = grad_out.shape[1:]
    grad_states = [torch.zeros(units, width) for _ in grads[1:]]
    for target, grad in zip(grad_states, grads[1:], strict=True):
        target[:, :batch] = grad.t()
    grad_gates = scratch("grad_gates", *saved.gates.shape)
    grad_hidden = grad_gates if is_lstm else scratch("grad_hidden", *saved.gates.shape)
    values = ordered_by_column(gather(weights.weight_hh, patterns.hh), patterns.hh)
    settings = [tile, width, times, units, patterns.hh.column_starts.data_ptr()]
    places = _places(patterns.hh, units)
    settings += [places.data_ptr()]
    settings += [t.data_ptr() for t in (values, *saved, grad_out, grad_states[0], grad_gates)]
    settings += [(grad_states[1] if is_lstm else grad_hidden).data_ptr()]
    run(lstm_backward_job if is_lstm else gru_backward_job, width // tile, settings)
    values = ordered_by_column(gather(weights.weight_ih, patterns.ih), patterns.ih)
    transposed = Matrix(patterns.ih.column_parts, _places(patterns.ih, units), width)
    grad_x = multiply(grad_gates, values, transposed, None)
    return Gradients(
        _unpack(grad_x, batch, _batch_first(x)),
        [state[:, :batch].t().contiguous() for state in grad_states],
        _weight_gradient(inputs, grad_gates, weights.weight_ih, patterns.ih, units, dense_grad),
        _weight_gradient(saved.states[:-1], grad_hidden, weights.weight_hh, patterns.hh, units, dense_grad),
        _bias_gradient(grad_gates, units),
        _bias_gradient(grad_hidden, units),
    )


def _weight_gradient(
    x: Tensor, grads: Tensor, weight: Tensor, pattern: SparsePattern, units: int, dense_grad: bool
) -> Tensor:
    if dense_grad:
        product = grads.transpose(0, 1).flatten(1) @ x.transpose(0, 1).flatten(1).t()
        return product.view(units, -1, weight.shape[1]).transpose(0, 1).reshape(weight.shape)
    return scatter(connection_gradients(x, grads, _by_unit(pattern, x, units)), weight, pattern)


def _by_unit(pattern: SparsePattern, blocks: Tensor, units: int) -> Matrix:
    """The pattern with the rows of one unit, one for each gate, side by side."""
    parts = pattern.row_parts
    parts = parts.view(parts.shape[0], -1, units).transpose(1, 2).reshape(parts.shape)
    return Matrix(parts, pattern.columns, blocks.shape[2])


def _places(pattern: SparsePattern, units: int) -> Tensor:
    """`SparsePattern.rows` counted as in `_by_unit`."""
    return pattern.rows % units * (pattern.n_rows // units) + pattern.rows // units


def _bias_gradient(grads: Tensor, units: int) -> Tensor:
    # Two sums over contiguous memory are several times faster than one over both ends.
    return grads.flatten(1).sum(0).view(grads.shape[1:]).sum(1).view(units, -1).t().reshape(-1)


def _biases(weights: Weights, units: int, is_lstm: bool) -> tuple[Tensor | None, Tensor | None]:
    """What is added to the input's share of the gates, and to the recurrent share of a GRU's n."""
    ih, hh = weights.bias_ih, weights.bias_hh
    if ih is None or hh is None:
        return None, None
    together = ih + hh
    if not is_lstm:
        together[2 * units :] = ih[2 * units :]
    return together.view(-1, units).t().reshape(-1), None if is_lstm else hh[2 * units :].contiguous()


def _tile(batch: int) -> int:
    """Samples of one task: the widest tile that fits, narrower if threads would go without."""
    threads = torch.get_num_threads()
    share = -(-batch // threads)
    return next((tile for tile in TILES if tile <= share), TILES[-1])


def padded(batch: int) -> int:
    """Samples of a step, rounded up to whole tiles."""
    tile = _tile(batch)
    return -(-batch // tile) * tile


def _pack(x: Tensor, name: str) -> Tensor:
    """(time, batch, features), any strides of time and batch, to (time, features, batch); missing samples are 0."""
    times, batch, features = x.shape
    width = padded(batch)
    x = x if x.stride(2) == 1 else x.contiguous()
    packed = scratch(name, times, features, width)
    if width > batch:
        packed[:, :, batch:] = 0
    zero = torch.zeros(1, dtype=torch.int64)
    source, target = Planes(x, x.stride(0), 0, zero), Planes(packed, features * width, 0, zero)
    samples = Axis(torch.arange(batch) * x.stride(1), times * batch)
    transpose(source, samples, target, Axis(torch.arange(features) * width, times * features), times, 1)
    return packed


def _unpack(packed: Tensor, batch: int, batch_first: bool) -> Tensor:
    """(time, features, batch) to (time, batch, features), laid out with the batch first if asked for."""
    times, features, width = packed.shape
    shape = (batch, times, features) if batch_first else (times, batch, features)
    x = torch.empty(shape)
    x = x.transpose(0, 1) if batch_first else x
    zero = torch.zeros(1, dtype=torch.int64)
    source, target = Planes(packed, features * width, 0, zero), Planes(x, x.stride(0), 0, zero)
    rows = Axis(torch.arange(features) * width, times * features)
    transpose(source, rows, target, Axis(torch.arange(batch) * x.stride(1), times * batch), times, 1)
    return x


def _batch_first(x: Tensor) -> bool:
    return x.stride(1) > x.stride(0)
