"""GRU and LSTM layers of the torch tier: a loop over time of `linear` products.

As `compiled.recurrent`, whose results these equal, but gate by gate: gates are (time, gates x units, batch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.recurrent_types import Gradients, Patterns, Saved, Weights
from rigl_lightning.kernels.torch_tier import linear as torch_linear
from rigl_lightning.kernels.torch_tier.values import gather, scatter


def forward(x: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns) -> tuple[list[Tensor], Saved]:
    """Run over a sequence (time, batch, features) from ``states``, (batch, units): [h] of a GRU or [h, c] of an LSTM.

    Returns:
        The outputs (time, batch, units) and the last states, and what `backward` reads.
    """
    times, batch, _ = x.shape
    inputs = _side_by_side(x.transpose(1, 2))
    shares = torch_linear.forward(inputs, weights.weight_ih, weights.bias_ih, patterns.ih)
    shares = shares.view(-1, times, batch).transpose(0, 1)
    values = gather(weights.weight_hh, patterns.hh)
    step = _lstm_step if len(states) == 2 else _gru_step
    current = [state.t() for state in states]
    all_gates, all_hidden, all_states = [], [current[1]] if len(states) == 2 else [], [current[0]]
    for share in shares:
        hidden = torch_linear.multiply(current[0], values, patterns.hh.row_starts, patterns.hh.columns)
        hidden = hidden if weights.bias_hh is None else hidden + weights.bias_hh[:, None]
        gates, kept, current = step(share, hidden, current)
        all_gates.append(gates)
        all_hidden.append(kept)
        all_states.append(current[0])
    hs = torch.stack(all_states)
    saved = Saved(_stack(all_gates, shares), _stack(all_hidden, hs[1:]), hs)
    return [
        hs[1:].transpose(1, 2).clone(memory_format=torch.contiguous_format),
        *(state.t().clone(memory_format=torch.contiguous_format) for state in current),
    ], saved


def backward(
    grads: list[Tensor], x: Tensor, weights: Weights, patterns: Patterns, saved: Saved, dense_grad: bool = False
) -> Gradients:
    """Gradients from those of the outputs (time, batch, units) and of the last states (batch, units)."""
    times, batch, _ = x.shape
    values = gather(weights.weight_hh, patterns.hh).index_select(0, patterns.hh.by_column)
    step = _lstm_step_backward if len(grads) == 3 else _gru_step_backward
    current = [grad.t() for grad in grads[1:]]
    shares, hiddens = [], []
    for t in reversed(range(times)):
        share, hidden, direct, rest = step(grads[0][t].t() + current[0], current[1:], saved, t)
        back = torch_linear.multiply(hidden, values, patterns.hh.column_starts, patterns.hh.rows)
        current = [direct + back if direct is not None else back, *rest]
        shares.append(share)
        hiddens.append(hidden)
    grad_share, grad_hidden = (_side_by_side(_stack(list(reversed(g)), saved.gates)) for g in (shares, hiddens))
    inputs, states = _side_by_side(x.transpose(1, 2)), _side_by_side(saved.states[:-1])
    values = gather(weights.weight_ih, patterns.ih).index_select(0, patterns.ih.by_column)
    grad_x = torch_linear.multiply(grad_share, values, patterns.ih.column_starts, patterns.ih.rows)
    return Gradients(
        grad_x.view(-1, times, batch).permute(1, 2, 0).contiguous(),
        [state.t().contiguous() for state in current],
        _weight_gradient(inputs, grad_share, weights.weight_ih, patterns.ih, dense_grad),
        _weight_gradient(states, grad_hidden, weights.weight_hh, patterns.hh, dense_grad),
        grad_share.sum(1),
        grad_hidden.sum(1),
    )


_Step = tuple[Tensor, Tensor, list[Tensor]]
_BackwardStep = tuple[Tensor, Tensor, Tensor | None, list[Tensor]]


def _gru_step(share: Tensor, hidden: Tensor, states: list[Tensor]) -> _Step:
    (share_r, share_z, share_n), (hidden_r, hidden_z, hidden_n) = share.chunk(3), hidden.chunk(3)
    r, z = (share_r + hidden_r).sigmoid(), (share_z + hidden_z).sigmoid()
    n = (share_n + r * hidden_n).tanh()
    return torch.cat([r, z, n]), hidden_n, [n + z * (states[0] - n)]


def _gru_step_backward(grad: Tensor, rest: list[Tensor], saved: Saved, t: int) -> _BackwardStep:
    r, z, n = saved.gates[t].chunk(3)
    grad_n = grad * (1 - z) * (1 - n * n)
    grad_z = grad * (saved.states[t] - n) * z * (1 - z)
    grad_r = grad_n * saved.hidden[t] * r * (1 - r)
    return torch.cat([grad_r, grad_z, grad_n]), torch.cat([grad_r, grad_z, grad_n * r]), grad * z, rest


def _lstm_step(share: Tensor, hidden: Tensor, states: list[Tensor]) -> _Step:
    i, f, g, o = (share + hidden).chunk(4)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell = f * states[1] + i * g
    return torch.cat([i, f, g, o]), cell, [o * cell.tanh(), cell]


def _lstm_step_backward(grad: Tensor, rest: list[Tensor], saved: Saved, t: int) -> _BackwardStep:
    i, f, g, o = saved.gates[t].chunk(4)
    bent = saved.hidden[t + 1].tanh()
    grad_cell = rest[0] + grad * o * (1 - bent * bent)
    grad_i, grad_f = grad_cell * g * i * (1 - i), grad_cell * saved.hidden[t] * f * (1 - f)
    grad_g, grad_o = grad_cell * i * (1 - g * g), grad * bent * o * (1 - o)
    gates = torch.cat([grad_i, grad_f, grad_g, grad_o])
    return gates, gates, None, [grad_cell * f]


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, pattern: SparsePattern, dense_grad: bool) -> Tensor:
    if dense_grad:
        return grad @ x.t()
    return scatter(torch_linear.connection_gradients(x, grad, pattern), weight, pattern)


def _side_by_side(x: Tensor) -> Tensor:
    """(time, features, batch) to (features, time x batch)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _stack(steps: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(steps) if steps else torch.empty_like(like)
