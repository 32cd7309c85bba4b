"""Layers whose weight is stored as the vector of its active values: no dense tensor is read or written.

They compute what `sparse_linear`, `sparse_conv2d`, `sparse_gru` and `sparse_lstm` compute, with the same kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels import conv, linear, recurrent
from rigl_lightning.kernels.conv_geometry import Window
from rigl_lightning.kernels.dense import recorded_gradients
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.precision import by_dense_operator, in_float32, widened
from rigl_lightning.kernels.recurrent_types import Patterns, Saved, Weights
from rigl_lightning.kernels.stored_types import Stored, TakeGradient, dense_weight
from rigl_lightning.kernels.tiers import are_readable, tier_of


def stored_linear(
    x: Tensor, weight: Stored, bias: Tensor | None, pattern: SparsePattern, take: TakeGradient | None = None
) -> Tensor:
    """As `sparse_linear`.

    Args:
        x: (..., inputs).
        weight: Values of the active connections.
        bias: (outputs,) or None.
        pattern: The active connections.
        take: Gets the dense gradient, if it is wanted.
    """
    return in_float32(_linear, x, weight.values, bias, weight.shape, pattern, take)


def stored_conv2d(
    x: Tensor,
    weight: Stored,
    bias: Tensor | None,
    window: Window,
    pattern: SparsePattern,
    take: TakeGradient | None = None,
) -> Tensor:
    """As `sparse_conv2d`, with the arguments of `stored_linear`."""
    return in_float32(_conv2d, x, weight.values, bias, weight.shape, window, pattern, take)


def stored_recurrent(
    x: Tensor, states: Sequence[Tensor], weights: Weights, patterns: Patterns, take: Sequence[TakeGradient | None]
) -> list[Tensor]:
    """As `sparse_gru` with one state and `sparse_lstm` with two, each weight stored or dense.

    Args:
        x: (time, batch, features).
        states: Each (batch, units).
        weights: Of which ``weight_ih`` and ``weight_hh`` are `Stored`.
        patterns: Active connections of both.
        take: Gets the dense gradient of each, if it is wanted.

    Returns:
        The outputs and the last states.
    """
    shapes = tuple(weight.shape for weight in weights[:2])
    values = [weight.values if isinstance(weight, Stored) else weight for weight in weights[:2]]

    return list(in_float32(_recurrent, x, values[0], list(states), [*values, *weights[2:]], shapes, patterns, take))


def _linear(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    shape: torch.Size,
    pattern: SparsePattern,
    take: TakeGradient | None,
) -> Tensor:
    tier = tier_of(x, values, bias)
    if tier == "dense":
        return by_dense_operator(F.linear, x, _dense(values, shape, pattern, take), bias)
    return _Linear.apply(x, values, bias, shape, pattern, take, tier)


def _conv2d(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    shape: torch.Size,
    window: Window,
    pattern: SparsePattern,
    take: TakeGradient | None,
) -> Tensor:
    tier = conv.tier_of_conv(x, values, bias, shape, window)
    if tier == "dense":
        return conv.dense(x, _dense(values, shape, pattern, take), bias, window, pattern, True)
    return _Conv2d.apply(x, values, bias, shape, window, pattern, take, tier)


def _recurrent(
    x: Tensor,
    values: Tensor,
    states: list[Tensor],
    weights: list[Tensor | None],
    shapes: Sequence[torch.Size],
    patterns: Patterns,
    take: Sequence[TakeGradient | None],
) -> Sequence[Tensor]:
    states = [state.to(values.dtype) for state in states]
    tier = tier_of(x, *states, *weights)
    if tier == "dense":
        own = zip(weights[:2], shapes, patterns, take, strict=True)
        return recurrent.dense(x, states, Weights(*(_dense(*w) for w in own), *weights[2:]), patterns, True)  # type: ignore[arg-type]
    return _Recurrent.apply(x, patterns, take, shapes, tier, len(states), *states, *weights)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(x, values, bias)
        ctx.settings = shape, pattern, _, tier = settings
        return linear.forward(x, _stored(values, shape), bias, pattern, tier)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, values, bias = ctx.saved_tensors
        shape, pattern, take, tier = ctx.settings
        need_x, need_values, need_bias = ctx.needs_input_grad[:3]
        if not are_readable([grad]):

            def dense(x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
                return by_dense_operator(F.linear, x, _dense(values, shape, pattern, take), bias)

            found = recorded_gradients(dense, [x, values, bias], [need_x, need_values, need_bias], [grad])
            return *found, None, None, None, None
        needs = linear.Needs(need_x, need_values and take is None, False)
        grad_x, grad_weight = linear.backward(grad, x, _stored(values, shape), pattern, needs, tier)
        grad_bias = linear.rows_of(grad).sum(0, dtype=values.dtype) if need_bias else None
        if need_values and take is not None:
            grad_weight = _in_pieces(linear.rows_of(widened(grad)), linear.rows_of(widened(x)), pattern, take)
        return grad_x, grad_weight, grad_bias, None, None, None, None


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(x, values, bias)
        ctx.settings = shape, window, pattern, _, tier = settings
        return conv.forward(x, _stored(values, shape), bias, window, pattern, tier)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, values, bias = ctx.saved_tensors
        shape, window, pattern, take, tier = ctx.settings
        need_x, need_values, need_bias = ctx.needs_input_grad[:3]
        if not are_readable([grad]):

            def dense(x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
                return conv.dense(x, _dense(values, shape, pattern, take), bias, window, pattern, True)

            found = recorded_gradients(dense, [x, values, bias], [need_x, need_values, need_bias], [grad])
            return *found, None, None, None, None, None
        needs = conv.Needs(need_x, need_values, take is not None)
        grad_x, grad_weight = conv.backward(grad, x, _stored(values, shape), window, pattern, needs, tier)
        grad_bias = conv.bias_gradient(grad, values) if need_bias else None
        return grad_x, _taken(grad_weight, pattern, take), grad_bias, None, None, None, None, None


class _Recurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, patterns, take, shapes, tier, n_states, *rest):  # type: ignore[no-untyped-def]
        states, weights = list(rest[:n_states]), _both(rest[n_states:], shapes)
        outs, saved = recurrent.forward(x, states, weights, patterns, tier)
        ctx.save_for_backward(x, *saved, *rest)
        ctx.patterns, ctx.take, ctx.shapes, ctx.tier = patterns, take, shapes, tier
        return tuple(outs)

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        x, *rest = ctx.saved_tensors
        n = len(grads) - 1
        saved, states, tensors = Saved(*rest[:3]), rest[3 : 3 + n], rest[3 + n :]
        if not are_readable(grads):

            def dense(x, *own):  # type: ignore[no-untyped-def]
                pairs = zip(own[n : n + 2], ctx.shapes, ctx.patterns, ctx.take, strict=True)
                weights = Weights(*(_dense(*pair) for pair in pairs), *own[n + 2 :])
                return recurrent.dense(x, list(own[:n]), weights, ctx.patterns, True)

            needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[6:]]
            grad_x, *others = recorded_gradients(dense, [x, *states, *tensors], needs, grads)
            return grad_x, None, None, None, None, None, *others
        weights = _both(tensors, ctx.shapes)
        wants_dense = any(take is not None for take in ctx.take)
        g = recurrent.backward(list(grads), x, weights, ctx.patterns, saved, wants_dense, ctx.tier)
        found = [
            _taken(grad, pattern, take) if isinstance(weight, Stored) else grad
            for grad, weight, pattern, take in zip(
                (g.weight_ih, g.weight_hh), weights, ctx.patterns, ctx.take, strict=False
            )
        ]
        biases = (None, None) if weights.bias_ih is None else (g.bias_ih, g.bias_hh)
        return g.x, None, None, None, None, None, *g.states, *found, *biases


def _stored(values: Tensor, shape: torch.Size) -> Any:
    # The tiers read a weight by `gather`, which takes this, and ask it for nothing else but its shape.
    return Stored(values, shape)


def _both(tensors: Sequence[Tensor | None], shapes: Sequence[torch.Size]) -> Weights:
    """Weights of which the vectors are values of these shapes."""
    ih, hh = (
        Stored(tensor, shape) if tensor is not None and tensor.ndim == 1 else tensor
        for tensor, shape in zip(tensors, shapes, strict=False)
    )
    return Weights(ih, hh, *tensors[2:])  # type: ignore[arg-type]


def _dense(values: Tensor, shape: torch.Size, pattern: SparsePattern, take: TakeGradient | None = None) -> Tensor:
    """The dense weight, whose gradient is handed on, as a function of the values; a dense one as it is."""
    return values if values.ndim > 1 else dense_weight(values, shape, pattern.positions, take)


def _in_pieces(grad: Tensor, x: Tensor, pattern: SparsePattern, take: TakeGradient) -> Tensor:
    """Gradient of the values; the dense one is handed on by rows."""
    values = x.new_empty(pattern.n_active)
    step = max(1, take.rows_at_once)
    for first in range(0, pattern.n_rows, step):
        piece = grad[:, first : first + step].t() @ x
        own = slice(*pattern.row_starts[[first, min(first + step, pattern.n_rows)]].tolist())
        values[own] = piece.view(-1)[pattern.positions[own] - first * pattern.n_columns]
        take(first, piece)
    return values


def _taken(grad: Tensor | None, pattern: SparsePattern, take: TakeGradient | None) -> Tensor | None:
    """The gradient of the values; a dense one is handed on first."""
    if grad is None or grad.ndim == 1:
        return grad
    if take is not None:
        take(0, grad)
    return grad.reshape(-1).index_select(0, pattern.positions)
