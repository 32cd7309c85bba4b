"""sparse_gru and sparse_lstm: recurrent layers over a whole sequence, reading active connections only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rigl_lightning.kernels.dense import masked_gradient, recorded_gradients
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.precision import in_float32
from rigl_lightning.kernels.recurrent_types import Gradients, Patterns, Saved, Weights
from rigl_lightning.kernels.registration import Backward, register_operator
from rigl_lightning.kernels.tiers import are_readable, tier_of
from rigl_lightning.kernels.torch_tier import recurrent as torch_recurrent


def sparse_gru(
    x: Tensor, state: Tensor, weights: Weights, patterns: Patterns, dense_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """One direction of one GRU layer, with the weights and formulas of `torch.nn.GRU`.

    Gradients of the weights have the weights' shapes, and are 0 at inactive connections.

    Args:
        x: (time, batch, features); a batch-first sequence is passed as ``x.transpose(0, 1)``, at no cost.
        state: (batch, units), the state before the first step.
        weights: 0 at inactive connections; both biases or none.
        patterns: Active connections of both weights.
        dense_grad: Compute the gradients of inactive connections too, as RigL does on update steps.

    Returns:
        The outputs (time, batch, units), and the last state (batch, units).

    Raises:
        ValueError: If patterns, weights, state or inputs do not fit each other.
    """
    _check(x, [state], weights, patterns, 3)
    out, last = in_float32(_recurrent, x, weights.weight_ih, [state], weights, patterns, dense_grad)
    return out, last


def sparse_lstm(
    x: Tensor, states: tuple[Tensor, Tensor], weights: Weights, patterns: Patterns, dense_grad: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One direction of one LSTM layer, with the weights and formulas of `torch.nn.LSTM`.

    As `sparse_gru`, with ``states`` the hidden and the cell state, each (batch, units).

    Returns:
        The outputs (time, batch, units), and the last hidden and cell states.

    Raises:
        ValueError: If patterns, weights, states or inputs do not fit each other.
    """
    _check(x, list(states), weights, patterns, 4)
    out, h, c = in_float32(_recurrent, x, weights.weight_ih, list(states), weights, patterns, dense_grad)
    return out, (h, c)


def _recurrent(
    x: Tensor, _: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns, dense_grad: bool
) -> tuple[Tensor, ...]:
    states = [state.to(weights.weight_ih.dtype) for state in states]
    tier = tier_of(x, *states, *weights)
    if tier == "dense":
        return dense(x, states, weights, patterns, dense_grad)
    if torch.compiler.is_compiling():
        op = torch.ops.rigl_lightning.sparse_recurrent
        tensors = (patterns.ih.tensors(), patterns.hh.tensors())
        return tuple(op(x, states, *weights, *tensors, dense_grad, tier)[: 1 + len(states)])
    return _SparseRecurrent.apply(x, patterns, dense_grad, tier, len(states), *states, *weights)


def dense(
    x: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns, dense_grad: bool
) -> tuple[Tensor, ...]:
    """The layer by torch's own operators, with masked gradients."""
    ih = masked_gradient(weights.weight_ih, patterns.ih, dense_grad)
    hh = masked_gradient(weights.weight_hh, patterns.hh, dense_grad)
    biases = [bias for bias in weights[2:] if bias is not None]
    dtype, x = x.dtype, x.to(ih.dtype) if x.dtype is torch.bfloat16 else x
    options = (bool(biases), 1, 0.0, False, False, False)
    if len(states) == 1:
        out, last = torch._VF.gru(x, states[0][None], [ih, hh, *biases], *options)
        return out.to(dtype), last[0]
    out, h, c = torch._VF.lstm(x, [state[None] for state in states], [ih, hh, *biases], *options)
    return out.to(dtype), h[0], c[0]


def forward(
    x: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns, tier: str
) -> tuple[list[Tensor], Saved]:
    """The layer by a sparse tier, and what `backward` reads; weights may be `Stored`, here and there."""
    if tier == "fast":
        from rigl_lightning.kernels.compiled import recurrent as compiled_recurrent

        return compiled_recurrent.forward(x, states, weights, patterns)
    return torch_recurrent.forward(x, states, weights, patterns)


def backward(
    grads: list[Tensor], x: Tensor, weights: Weights, patterns: Patterns, saved: Saved, dense_grad: bool, tier: str
) -> Gradients:
    """Gradients of the inputs, the states and the weights."""
    if tier == "fast":
        from rigl_lightning.kernels.compiled import recurrent as compiled_recurrent

        return compiled_recurrent.backward(grads, x, weights, patterns, saved, dense_grad)
    return torch_recurrent.backward(grads, x, weights, patterns, saved, dense_grad)


def _check(x: Tensor, states: list[Tensor], weights: Weights, patterns: Patterns, gates: int) -> None:
    patterns.ih.check(weights.weight_ih)
    patterns.hh.check(weights.weight_hh)
    units = weights.weight_hh.shape[1]
    if weights.weight_hh.shape[0] != gates * units or weights.weight_ih.shape[0] != gates * units:
        raise ValueError(
            f"Expected weights of {gates} x {units} rows, got {tuple(weights.weight_ih.shape)} and "
            f"{tuple(weights.weight_hh.shape)}."
        )
    if x.ndim != 3 or x.shape[2] != weights.weight_ih.shape[1]:
        raise ValueError(f"Expected inputs (time, batch, {weights.weight_ih.shape[1]}), got {tuple(x.shape)}.")
    if any(state.shape != (x.shape[1], units) for state in states):
        raise ValueError(f"Expected states {(x.shape[1], units)}, got {[tuple(state.shape) for state in states]}.")
    if (weights.bias_ih is None) != (weights.bias_hh is None):
        raise ValueError("Expected both biases or none.")


class _SparseRecurrent(torch.autograd.Function):
    """The layer in eager mode."""

    @staticmethod
    def forward(ctx, x, patterns, dense_grad, tier, n_states, *rest):  # type: ignore[no-untyped-def]
        states, weights = list(rest[:n_states]), Weights(*rest[n_states:])
        outs, saved = forward(x, states, weights, patterns, tier)
        ctx.save_for_backward(x, *saved, *states, *weights)
        ctx.patterns, ctx.dense_grad, ctx.tier = patterns, dense_grad, tier
        return tuple(outs)

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        x, *rest = ctx.saved_tensors
        n = len(grads) - 1
        states, weights = rest[3 : 3 + n], Weights(*rest[3 + n :])
        if not are_readable(grads):

            def layer(x, *tensors):  # type: ignore[no-untyped-def]
                return dense(x, list(tensors[:n]), Weights(*tensors[n:]), ctx.patterns, ctx.dense_grad)

            needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[5:]]
            grad_x, *others = recorded_gradients(layer, [x, *states, *weights], needs, grads)
            return grad_x, None, None, None, None, *others
        g = backward(list(grads), x, weights, ctx.patterns, Saved(*rest[:3]), ctx.dense_grad, ctx.tier)
        biases = (None, None) if weights.bias_ih is None else (g.bias_ih, g.bias_hh)
        return g.x, None, None, None, None, *g.states, g.weight_ih, g.weight_hh, *biases


def _op_forward(
    x: Tensor, states: list[Tensor], ih: Tensor, hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None, *rest: Any
) -> list[Tensor]:
    pattern_ih, pattern_hh, _, tier = rest
    outs, saved = forward(x, states, Weights(ih, hh, bias_ih, bias_hh), _patterns(pattern_ih, pattern_hh), tier)
    return [outs[0].contiguous(), *outs[1:], *saved]


def _op_fake(x: Tensor, states: list[Tensor], ih: Tensor, hh: Tensor, *rest: Any) -> list[Tensor]:
    (times, batch, _), units = x.shape, hh.shape[1]
    width = batch
    if rest[-1] == "fast":
        from rigl_lightning.kernels.compiled.recurrent import padded

        width = padded(batch)
    steps = times + 1 if len(states) == 2 else times
    gates = (times, hh.shape[0], width)
    saved = [x.new_empty(gates), x.new_empty(steps, units, width), x.new_empty(times + 1, units, width)]
    return [x.new_empty(times, batch, units), *(x.new_empty(batch, units) for _ in states), *saved]


def _op_backward(
    grads: list[Tensor],
    saved: list[Tensor],
    x: Tensor,
    states: list[Tensor],
    ih: Tensor,
    hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    pattern_ih, pattern_hh, dense_grad, tier = rest
    weights, patterns = Weights(ih, hh, bias_ih, bias_hh), _patterns(pattern_ih, pattern_hh)
    g = backward(grads, x, weights, patterns, Saved(*saved), dense_grad, tier)
    biases = [] if bias_ih is None else [g.bias_ih, g.bias_hh]
    return [g.x, *g.states, g.weight_ih, g.weight_hh, *biases]


def _patterns(ih: list[Tensor], hh: list[Tensor]) -> Patterns:
    return Patterns(SparsePattern.from_tensors(ih), SparsePattern.from_tensors(hh))


register_operator(
    "sparse_recurrent",
    "Tensor x, Tensor[] states, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor[] pattern_ih, Tensor[] pattern_hh, bool dense_grad, str tier",
    "Tensor[]",
    _op_forward,
    _op_fake,
    Backward(_op_backward, n_differentiable=6, n_saved=3),
)
