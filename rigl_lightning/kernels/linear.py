"""sparse_linear: a linear layer that reads and differentiates active connections only."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels.dense import masked_gradient, recorded_gradients
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.precision import by_dense_operator, in_float32, plain_precision, widened
from rigl_lightning.kernels.registration import Backward, register_operator
from rigl_lightning.kernels.tiers import are_readable, tier_of
from rigl_lightning.kernels.torch_tier import linear as torch_linear


def sparse_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dense_grad: bool = False
) -> Tensor:
    """Linear layer ``x @ weight.T + bias`` with a sparse weight.

    Equals `torch.nn.functional.linear` where the weight is 0 at inactive connections, which are not read. The
    gradient of the weight has the weight's shape, and is 0 at inactive connections. Under autocast weights and sums
    are float32.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs), 0 at inactive connections.
        bias: (outputs,) or None.
        pattern: The weight's active connections.
        dense_grad: Compute the gradient of inactive connections too, as RigL does on update steps.

    Returns:
        (..., outputs).

    Raises:
        ValueError: If pattern or inputs do not fit the weight.

    >>> weight = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> pattern = SparsePattern.from_mask(weight != 0)
    >>> from rigl_lightning.kernels.tiers import use_tier
    >>> with use_tier("torch"):
    ...     sparse_linear(torch.tensor([3.0, 5.0]), weight, torch.tensor([0.0, 1.0]), pattern)
    tensor([6., 1.])
    """
    pattern.check(weight)
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"Expected {weight.shape[1]} input features, got {tuple(x.shape)}.")
    return in_float32(_sparse_linear, x, weight, bias, pattern, dense_grad)


def _sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dense_grad: bool) -> Tensor:
    tier = tier_of(x, weight, bias)
    if tier == "dense":
        return _dense(x, weight, bias, pattern, dense_grad)
    if torch.compiler.is_compiling():
        return torch.ops.rigl_lightning.sparse_linear(x, weight, bias, pattern.tensors(), dense_grad, tier)
    return _SparseLinear.apply(x, weight, bias, pattern, dense_grad, tier)


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dense_grad: bool) -> Tensor:
    return by_dense_operator(F.linear, x, masked_gradient(weight, pattern, dense_grad), bias)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, tier: str) -> Tensor:
    """The layer by a sparse tier; the weight may be `Stored`, here and in `backward`."""
    rows = rows_of(x)
    if tier == "fast":
        from rigl_lightning.kernels.compiled import linear as compiled_linear

        out = compiled_linear.forward(rows, weight, bias, pattern)
    else:
        out = torch_linear.forward(rows.t(), weight, bias, pattern).t().contiguous()
    return out.view(*x.shape[:-1], weight.shape[0])


class Needs(NamedTuple):
    """Which gradients are computed, and whether that of the weight is dense."""

    x: bool
    weight: bool
    dense: bool


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, needs: Needs, tier: str
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of inputs and weight, each only if needed."""
    rows, grads = rows_of(x), rows_of(grad)
    sampled = needs.weight and not needs.dense
    if tier == "fast":
        from rigl_lightning.kernels.compiled import linear as compiled_linear

        grad_x, grad_weight = compiled_linear.backward(grads, rows, weight, pattern, needs.x, sampled)
    else:
        grad_x, grad_weight = torch_linear.backward(grads.t(), rows.t(), weight, pattern, needs.x, sampled)
        grad_x = grad_x.t().contiguous() if grad_x is not None else None
    if needs.weight and needs.dense:
        with plain_precision():
            grad_weight = widened(grads).t() @ widened(rows)
    return grad_x.view(x.shape) if grad_x is not None else None, grad_weight


def rows_of(x: Tensor) -> Tensor:
    """(..., features) as (M, features)."""
    return x.flatten(0, -2) if x.ndim > 1 else x[None]


class _SparseLinear(torch.autograd.Function):
    """The layer in eager mode, without the cost of torch's dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pattern: SparsePattern,
        dense_grad: bool,
        tier: str,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.pattern, ctx.dense_grad, ctx.tier = pattern, dense_grad, tier
        return forward(x, weight, bias, pattern, tier)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        x, weight, bias = ctx.saved_tensors
        if not are_readable([grad]):
            layer = partial(_dense, pattern=ctx.pattern, dense_grad=ctx.dense_grad)
            found = recorded_gradients(layer, [x, weight, bias], [need_x, need_weight, need_bias], [grad])
            return *found, None, None, None
        needs = Needs(need_x, need_weight, ctx.dense_grad)
        grad_x, grad_weight = backward(grad, x, weight, ctx.pattern, needs, ctx.tier)
        grad_bias = rows_of(grad).sum(0, dtype=weight.dtype) if need_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None


def _op_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, pattern: list[Tensor], dense_grad: bool, tier: str
) -> Tensor:
    return forward(x, weight, bias, SparsePattern.from_tensors(pattern), tier)


def _op_fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _op_backward(
    grads: list[Tensor],
    _: list[Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: list[Tensor],
    dense_grad: bool,
    tier: str,
) -> list[Tensor]:
    (grad,), needs = grads, Needs(True, True, dense_grad)
    found = backward(grad, x, weight, SparsePattern.from_tensors(pattern), needs, tier)
    bias_gradients = [] if bias is None else [rows_of(grad).sum(0)]
    return [*(tensor for tensor in found if tensor is not None), *bias_gradients]


register_operator(
    "sparse_linear",
    "Tensor x, Tensor weight, Tensor? bias, Tensor[] pattern, bool dense_grad, str tier",
    "Tensor",
    _op_forward,
    _op_fake,
    Backward(_op_backward, n_differentiable=3),
)
