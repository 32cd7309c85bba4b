"""batch_norm2d: batch norm of contiguous images in training, as torch's functions compute it, and the ReLU after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rigl_lightning.kernels.conv_geometry import channels_last
from rigl_lightning.kernels.dense import recorded_gradients
from rigl_lightning.kernels.tiers import are_readable, is_fast_tier_on, is_plain, tier_of

_MARK = "_rigl_lightning_normalised"
"""Attribute of an output of `batch_norm2d`: what it was computed from."""
_LEAST = 1 << 16
"""Elements below which calling a kernel costs as much as it saves."""
_LEAST_PLANE = 16
"""Pixels of an image below which it is no vector."""


def batch_norm2d(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Images normalised by the mean and the variance of each channel; running statistics are updated in place.

    Equals `torch.nn.functional.batch_norm` with ``training=True`` to float32 rounding. torch's own is three times
    slower on contiguous images, and takes part in what this does not: other images, dtypes and devices, small images.

    Args:
        x: (N, C, H, W).
        running_mean: (C,), with ``running_var`` or None.
        running_var: (C,), of the unbiased variance.
        weight: (C,) or None.
        bias: (C,) or None.
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.

    >>> x = torch.randn(8, 4, 64, 64)
    >>> torch.allclose(batch_norm2d(x, None, None, None, None, 0.1, 1e-5), F.batch_norm(x, None, None, training=True))
    True
    """
    running = [running_mean, running_var]
    if not _is_supported(x) or tier_of(x, weight, bias, *running) != "fast" or None in running != [None, None]:
        out = F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
        if is_plain(out) and out.requires_grad and channels_last(x):
            out.register_hook(_in_channels_last)
        return out
    out, statistics = _BatchNorm2d.apply(x, weight, bias, eps)
    if out.requires_grad:
        out.__dict__[_MARK] = x, weight, bias, statistics, eps
    if running_mean is not None and running_var is not None:
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(statistics[0], alpha=momentum)
            running_var.mul_(1 - momentum).add_(statistics[1], alpha=momentum * count / (count - 1))
    return out


def _in_channels_last(grad: Tensor) -> Tensor:
    """The gradient in the memory format of its images: torch's backward pass is several times slower with another."""
    return grad.contiguous(memory_format=torch.channels_last)


def rectified(x: Tensor, inplace: bool) -> Tensor:
    """`torch.nn.functional.relu`. That of an output of `batch_norm2d` has one backward pass together with it.

    The batch norm's own output then has no part in the backward pass, unless something else reads it.

    Args:
        x: Any tensor.
        inplace: Whether to overwrite it.

    >>> rectified(torch.tensor([-1.0, 2.0]), inplace=False)
    tensor([0., 2.])
    """
    normalised = x.__dict__.pop(_MARK, None)
    if normalised is None or not _is_as_made(x):
        return F.relu(x, inplace)
    result: Tensor = _Rectified.apply(x if inplace else x.detach(), *normalised, inplace)
    return result


def _is_as_made(x: Tensor) -> bool:
    """Whether nobody has changed the output of a batch norm since, or asked for its gradient."""
    is_recorded = torch.is_grad_enabled() and x.requires_grad
    return is_recorded and x._version == 0 and not x._backward_hooks and not x.retains_grad


def _is_supported(x: Tensor) -> bool:
    return (
        x.ndim == 4
        and is_fast_tier_on()
        and x.dtype is torch.float32
        and x.numel() >= _LEAST
        and math.prod(x.shape[2:]) >= _LEAST_PLANE
        and x.is_contiguous()
        and not channels_last(x)
    )


class _BatchNorm2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        from rigl_lightning.kernels.compiled import batch_norm as compiled

        out, statistics = compiled.forward(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.eps = eps
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return out, statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
        return *_gradients(ctx, grad, ctx.needs_input_grad[:3], is_rectified=False), None


class _Rectified(torch.autograd.Function):
    """ReLU of a batch norm's output, as a function of the batch norm's input."""

    @staticmethod
    def forward(
        ctx: Any,
        normalised: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Tensor,
        eps: float,
        inplace: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        if inplace:
            ctx.mark_dirty(normalised)
        return normalised.relu_() if inplace else normalised.relu()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        return None, *_gradients(ctx, grad, ctx.needs_input_grad[1:4], is_rectified=True), None, None, None


def _gradients(ctx: Any, grad: Tensor | None, needs: Sequence[bool], is_rectified: bool) -> list[Tensor | None]:
    """Gradients of images, weight and bias, where they are needed."""
    from rigl_lightning.kernels.compiled import batch_norm as compiled

    if grad is None:  # at every step of a batch norm whose ReLU is in place: nothing is read for it
        return [None, None, None]
    x, weight, bias, statistics = ctx.saved_tensors
    if not are_readable([grad]):

        def dense(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            out = F.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.eps)
            return F.relu(out) if is_rectified else out

        return recorded_gradients(dense, [x, weight, bias], needs, [grad])
    grad_x, (grad_weight, grad_bias) = compiled.backward(grad, x, weight, bias, statistics, is_rectified)
    return [g if needed else None for g, needed in zip((grad_x, grad_weight, grad_bias), needs, strict=True)]
