"""GRU and LSTM layers of the fast tier for inference, with values held by row; see `compiled.recurrent`."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.compiled.linear import multiply
from rigl_lightning.kernels.compiled.products import Matrix
from rigl_lightning.kernels.compiled.recurrent import _batch_first, _pack, _tile, _unpack
from rigl_lightning.kernels.compiled.recurrent_jobs import gru_job, lstm_job
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import scratch


def recurrent(
    x: Tensor,
    states: list[Tensor],
    inputs: tuple[Tensor, Tensor, Tensor],
    hidden: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
    hidden_bias: Tensor | None,
) -> list[Tensor]:
    """One direction of one layer over a sequence (time, batch, features), at least one step of one sample.

    Args:
        x: The sequence.
        states: (batch, units), [h] of a GRU or [h, c] of an LSTM.
        inputs: Values, columns and parts of the inputs' weight, the rows of one unit side by side (the parts are
            ordered so, not the values).
        hidden: Values, columns and row starts of the recurrent weight.
        bias: Of the inputs' share of the gates, by unit; both biases but that of the recurrent share of a GRU's n.
        hidden_bias: Of the recurrent share of a GRU's n.

    Returns:
        The outputs (time, batch, units) and the last states.
    """
    times, batch, _ = x.shape
    units, tile, is_lstm = states[0].shape[1], _tile(batch), len(states) == 2
    packed = _pack(x, "inputs")
    width = packed.shape[2]
    values, columns, parts = inputs
    gates = scratch("gates", times, parts.shape[1], width)
    multiply(packed, values, Matrix(parts, columns, width), bias, gates)
    hs = scratch("hs", times + 1, units, width)
    other = scratch("other", times + 1, units, width)
    for target, state in zip((hs, other), states, strict=False):
        target[0].zero_()
        target[0, :, :batch] = state.t()
    values, columns, starts = hidden
    settings = [tile, width, times, units, starts.data_ptr(), columns.data_ptr()]
    settings += [values.data_ptr(), hidden_bias.data_ptr() if hidden_bias is not None else 0]
    settings += [gates.data_ptr(), other.data_ptr(), hs.data_ptr()]
    run(lstm_job if is_lstm else gru_job, width // tile, settings)
    last = [s[-1, :, :batch].t().clone(memory_format=torch.contiguous_format) for s in (hs, other)[: len(states)]]
    return [_unpack(hs[1:], batch, _batch_first(x)), *last]
