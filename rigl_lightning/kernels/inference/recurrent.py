"""GRU and LSTM layers of the fast tier for inference, with values held by row; see `compiled.recurrent`."""

from __future__ import annotations

from torch import Tensor

from rigl_lightning.kernels.compiled.blocks import multiply
from rigl_lightning.kernels.compiled.products import Matrix
from rigl_lightning.kernels.compiled.recurrent import batch_first, pack, run_steps, unpack
from rigl_lightning.kernels.settings import readable
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
    units, packed = states[0].shape[1], pack(x, "inputs")
    width = packed.shape[2]
    values, columns, parts = map(readable, inputs)
    gates = scratch("gates", times, parts.shape[1], width)
    multiply(packed, values, Matrix.of(parts, columns, width), bias, gates)
    hs = scratch("hs", times + 1, units, width)
    other = scratch("other", times + 1, units, width)
    values, columns, starts = map(readable, hidden)
    hidden_bias = None if hidden_bias is None else readable(hidden_bias)
    last = run_steps(gates, other, hs, states, (values, columns, starts), hidden_bias)
    return [unpack(hs[1:], batch, batch_first(x), x.dtype), *last]
