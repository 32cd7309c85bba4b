"""sparse_gru and sparse_lstm: recurrent layers over a whole sequence, reading active connections only."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.dense import masked_gradient, recorded_gradients
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.precision import in_float32
from rigl_lightning.kernels.recurrent_types import Gradients, Patterns, Saved, Weights
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
    states = [state.to(x.dtype) for state in states]
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
    options = (bool(biases), 1, 0.0, False, False, False)
    if len(states) == 1:
        out, last = torch._VF.gru(x, states[0][None], [ih, hh, *biases], *options)
        return out, last[0]
    out, h, c = torch._VF.lstm(x, [state[None] for state in states], [ih, hh, *biases], *options)
    return out, h[0], c[0]


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


@torch.library.custom_op(
    "rigl_lightning::sparse_recurrent",
    mutates_args=(),
    # Written out: torch 2.6 does not understand our annotations.
    schema="(Tensor x, Tensor[] states, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor[] pattern_ih, Tensor[] pattern_hh, bool dense_grad, str tier) -> Tensor[]",
)
def _recurrent_op(
    x: Tensor,
    states: list[Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    pattern_ih: list[Tensor],
    pattern_hh: list[Tensor],
    dense_grad: bool,
    tier: str,
) -> list[Tensor]:
    patterns = Patterns(SparsePattern.from_tensors(pattern_ih), SparsePattern.from_tensors(pattern_hh))
    outs, saved = forward(x, states, Weights(weight_ih, weight_hh, bias_ih, bias_hh), patterns, tier)
    return [outs[0].contiguous(), *outs[1:], *saved]


@_recurrent_op.register_fake
def _(x, states, weight_ih, weight_hh, bias_ih, bias_hh, pattern_ih, pattern_hh, dense_grad, tier):  # type: ignore[no-untyped-def]
    (times, batch, _), units = x.shape, weight_hh.shape[1]
    width = batch
    if tier == "fast":
        from rigl_lightning.kernels.compiled.recurrent import padded

        width = padded(batch)
    steps = times + 1 if len(states) == 2 else times
    gates = (times, weight_hh.shape[0], width)
    saved = [x.new_empty(gates), x.new_empty(steps, units, width), x.new_empty(times + 1, units, width)]
    return [x.new_empty(times, batch, units), *(x.new_empty(batch, units) for _ in states), *saved]


@torch.library.custom_op(
    "rigl_lightning::sparse_recurrent_backward",
    mutates_args=(),
    # Written out: torch 2.6 does not understand our annotations.
    schema="(Tensor[] grads, Tensor x, Tensor[] saved, Tensor[] weights, Tensor[] pattern_ih, "
    "Tensor[] pattern_hh, bool dense_grad, str tier) -> Tensor[]",
)
def _recurrent_backward_op(
    grads: list[Tensor],
    x: Tensor,
    saved: list[Tensor],
    weights: list[Tensor],
    pattern_ih: list[Tensor],
    pattern_hh: list[Tensor],
    dense_grad: bool,
    tier: str,
) -> list[Tensor]:
    patterns = Patterns(SparsePattern.from_tensors(pattern_ih), SparsePattern.from_tensors(pattern_hh))
    with_bias = Weights(*weights) if len(weights) == 4 else Weights(weights[0], weights[1], None, None)
    g = backward(grads, x, with_bias, patterns, Saved(*saved), dense_grad, tier)
    return [g.x.contiguous(), *g.states, g.weight_ih, g.weight_hh, g.bias_ih, g.bias_hh]


@_recurrent_backward_op.register_fake
def _(grads, x, saved, weights, pattern_ih, pattern_hh, dense_grad, tier):  # type: ignore[no-untyped-def]
    states = [grad.new_empty(grad.shape) for grad in grads[1:]]
    biases = [x.new_empty(weights[0].shape[0]) for _ in range(2)]
    return [x.new_empty(x.shape), *states, *(weight.new_empty(weight.shape) for weight in weights[:2]), *biases]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, states, *weights, pattern_ih, pattern_hh, ctx.dense_grad, ctx.tier = inputs
    ctx.n_states, ctx.has_bias = len(states), weights[2] is not None
    tensors = weights if ctx.has_bias else weights[:2]
    ctx.sizes = (1, 3, len(tensors), len(pattern_ih), len(pattern_hh))
    ctx.save_for_backward(x, *output[1 + len(states) :], *tensors, *pattern_ih, *pattern_hh)


def _op_backward(ctx, grads):  # type: ignore[no-untyped-def]
    tensors, groups = list(ctx.saved_tensors), []
    for size in ctx.sizes:
        groups.append(tensors[:size])
        tensors = tensors[size:]
    (x,), saved, weights, pattern_ih, pattern_hh = groups
    op = torch.ops.rigl_lightning.sparse_recurrent_backward
    out = op(list(grads[: 1 + ctx.n_states]), x, saved, weights, pattern_ih, pattern_hh, ctx.dense_grad, ctx.tier)
    biases = out[-2:] if ctx.has_bias else [None, None]
    n = 1 + ctx.n_states
    return out[0], out[1:n], out[n], out[n + 1], *biases, [None] * len(pattern_ih), [None] * len(pattern_hh), None, None


_recurrent_op.register_autograd(_op_backward, setup_context=_setup_context)
