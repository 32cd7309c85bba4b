"""GRU and LSTM layers of the fast tier, over a whole sequence.

Sequences become (time, features, batch): a time step's samples lie side by side, and a step is one contiguous block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.blocks import connection_gradients, multiply, steps
from rigl_lightning.kernels.compiled.ir import TILES
from rigl_lightning.kernels.compiled.products import Matrix
from rigl_lightning.kernels.compiled.recurrent_jobs import (
    Backward,
    Recurrence,
    gru_backward_job,
    gru_job,
    lstm_backward_job,
    lstm_job,
)
from rigl_lightning.kernels.compiled.transposition import Axis, Planes, transpose
from rigl_lightning.kernels.compiled.values import gather, ordered_by_column, scatter
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.recurrent_types import Gradients, Patterns, Saved, Weights
from rigl_lightning.kernels.settings import readable, resolved
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import new, new_zeros, scratch


def forward(x: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns) -> tuple[list[Tensor], Saved]:
    """Run over a sequence (time, batch, features) from ``states``, (batch, units): [h] of a GRU or [h, c] of an LSTM.

    The sequence may be bfloat16, and so are the outputs then, and the gradient of the sequence in `backward`.

    Returns:
        The outputs (time, batch, units) and the last states, and what `backward` reads.
    """
    times, batch, _ = x.shape
    units, inputs = states[0].shape[1], pack(x, "inputs")
    is_lstm = len(states) == 2
    bias, hidden_bias = _biases(weights, units, is_lstm)
    # The input's share of every step at once; the job adds the recurrent share.
    gates = multiply(inputs, gather(weights.weight_ih, patterns.ih), _by_unit(patterns.ih, inputs, units), bias)
    width = inputs.shape[2]
    hs = new(times + 1, units, width)
    hidden = new(times + 1 if is_lstm else times, units, width)
    by_row = gather(weights.weight_hh, patterns.hh), patterns.hh.columns, patterns.hh.row_starts
    last = run_steps(gates, hidden, hs, states, by_row, hidden_bias)
    return [unpack(hs[1:], batch, batch_first(x), x.dtype), *last], Saved(gates, hidden, hs)


def run_steps(
    gates: Tensor,
    hidden: Tensor,
    hs: Tensor,
    states: list[Tensor],
    weight: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
) -> list[Tensor]:
    """All time steps forward: fills ``hidden`` and ``hs``, and the recurrent share into ``gates``.

    Args:
        gates: The input's share, see `gru_job` and `lstm_job` for this and the next two.
        hidden: Of a GRU, or the cell states of an LSTM.
        hs: The states.
        states: The first ones, (batch, units), as in `forward`.
        weight: Values, columns and row starts of the recurrent weight.
        bias: Of the recurrent share of a GRU's n.

    Returns:
        The last states, (batch, units).
    """
    (values, columns, starts), is_lstm = weight, len(states) == 2
    batch, (_, units, width) = states[0].shape[0], hs.shape
    for target, state in zip((hs, hidden), states, strict=False):
        target[0].zero_()
        target[0, :, :batch] = state.t()
    tile = tile_of(width)
    settings = Recurrence(
        tile=tile,
        batch=width,
        times=gates.shape[0],
        units=units,
        starts=starts,
        columns=columns,
        values=values,
        bias=bias,
        gates=gates,
        hidden=hidden,
        states=hs,
    )
    run(lstm_job if is_lstm else gru_job, width // tile, settings)
    return [s[-1, :, :batch].t().clone(memory_format=torch.contiguous_format) for s in (hs, hidden)[: len(states)]]


def backward(
    grads: list[Tensor], x: Tensor, weights: Weights, patterns: Patterns, saved: Saved, dense_grad: bool = False
) -> Gradients:
    """Gradients from those of the outputs (time, batch, units) and of the last states (batch, units)."""
    (times, batch, _), is_lstm = x.shape, len(grads) == 3
    saved = Saved(*map(readable, saved))
    width = saved.gates.shape[2]  # as `forward` made it, whatever the number of threads is now
    inputs, grad_out = pack(x, "inputs", width), pack(grads[0], "grad_out", width)
    units, tile = grad_out.shape[1], tile_of(width)
    grad_states = [new_zeros(units, width) for _ in grads[1:]]
    for target, grad in zip(grad_states, grads[1:], strict=True):
        target[:, :batch] = grad.t()
    grad_gates = scratch("grad_gates", *saved.gates.shape)
    grad_hidden = grad_gates if is_lstm else scratch("grad_hidden", *saved.gates.shape)
    settings = Backward(
        tile=tile,
        batch=width,
        times=times,
        units=units,
        starts=patterns.hh.column_starts,
        rows=_places(patterns.hh, units),
        values=ordered_by_column(gather(weights.weight_hh, patterns.hh), patterns.hh),
        gates=saved.gates,
        hidden=saved.hidden,
        states=saved.states,
        grad_out=grad_out,
        grad=grad_states[0],
        grad_gates=grad_gates,
        grad_other=grad_states[1] if is_lstm else grad_hidden,
    )
    run(lstm_backward_job if is_lstm else gru_backward_job, width // tile, settings)
    grad_x = _input_gradient(grad_gates, weights.weight_ih, patterns.ih, units, width)
    return Gradients(
        unpack(grad_x, batch, batch_first(x), x.dtype),
        [state[:, :batch].t().contiguous() for state in grad_states],
        _weight_gradient(inputs, grad_gates, weights.weight_ih, patterns.ih, units, dense_grad),
        _weight_gradient(saved.states[:-1], grad_hidden, weights.weight_hh, patterns.hh, units, dense_grad),
        _bias_gradient(grad_gates, units),
        _bias_gradient(grad_hidden, units),
    )


def _input_gradient(grads: Tensor, weight: Tensor, pattern: SparsePattern, units: int, width: int) -> Tensor:
    values = ordered_by_column(gather(weight, pattern), pattern)
    return multiply(grads, values, Matrix.of(pattern.column_parts, _places(pattern, units), width), None)


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
    return Matrix.of(parts, pattern.columns, blocks.shape[2])


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
    return together.view(-1, units).t().reshape(-1), None if is_lstm else readable(hh[2 * units :])


def padded(batch: int) -> int:
    """Samples of a step, rounded up to the widest tile that fits; the same for any number of threads."""
    tile = next((tile for tile in TILES if tile <= batch), TILES[-1])
    return -(-batch // tile) * tile


def tile_of(width: int) -> int:
    """Samples of one task: the widest tile of a padded step, narrower if threads would go without."""
    share = -(-width // torch.get_num_threads())
    return next((tile for tile in TILES if tile <= share and width % tile == 0), TILES[-1])


def pack(x: Tensor, name: str, width: int | None = None) -> Tensor:
    """(time, batch, features), any strides of time and batch, to (time, features, width); missing samples are 0."""
    times, batch, features = x.shape
    width = padded(batch) if width is None else width
    x = resolved(x)
    x = x if x.stride(2) == 1 else x.contiguous()
    packed = scratch(name, times, features, width)
    if width > batch:
        packed[:, :, batch:] = 0
    source, target = Planes(x, x.stride(0), 0, steps(1, 0)), Planes(packed, features * width, 0, steps(1, 0))
    samples = Axis(steps(batch, x.stride(1)), times * batch)
    transpose(source, samples, target, Axis(steps(features, width), times * features), times, 1)
    return packed


def unpack(packed: Tensor, batch: int, with_batch_first: bool, dtype: torch.dtype) -> Tensor:
    """(time, features, batch) to (time, batch, features), laid out with the batch first if asked for."""
    times, features, width = packed.shape
    shape = (batch, times, features) if with_batch_first else (times, batch, features)
    x = new(*shape, dtype=dtype)
    x = x.transpose(0, 1) if with_batch_first else x
    source, target = Planes(packed, features * width, 0, steps(1, 0)), Planes(x, x.stride(0), 0, steps(1, 0))
    rows = Axis(steps(features, width), times * features)
    transpose(source, rows, target, Axis(steps(batch, x.stride(1)), times * batch), times, 1, True)
    return x


def batch_first(x: Tensor) -> bool:
    """Whether the steps of a sample lie side by side in (time, batch, features)."""
    return x.stride(1) > x.stride(0)
