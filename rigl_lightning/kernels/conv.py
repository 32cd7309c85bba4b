"""sparse_conv2d: a convolution that reads and differentiates active connections only."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from rigl_lightning.kernels.conv_geometry import Pair, Window, channels_last, geometry, outputs, window_of
from rigl_lightning.kernels.dense import masked_gradient, recorded_gradients
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.precision import by_dense_operator, in_float32, plain_precision, widened
from rigl_lightning.kernels.registration import Backward, register_operator
from rigl_lightning.kernels.tiers import Tier, are_readable, tier_of
from rigl_lightning.kernels.torch_tier import linear as torch_linear


def sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
    pattern: SparsePattern,
    dense_grad: bool = False,
) -> Tensor:
    """Convolution of images with a sparse kernel, one group.

    Equals `torch.nn.functional.conv2d` where the weight is 0 at inactive connections, which are not read. The
    gradient of the weight has the weight's shape, and is 0 at inactive connections. Without the fast tier only 1x1
    kernels without padding are sparse: for others torch's dense convolution is faster than any of its sparse
    operators, and only the gradient is masked.

    Args:
        x: (N, C, H, W), contiguous or channels last.
        weight: (outputs, C, height, width), 0 at inactive connections.
        bias: (outputs,) or None.
        stride: Pixels from one output to the next, one number or (vertical, horizontal), as the next two.
        padding: Zeros around the image.
        dilation: Pixels from one tap to the next.
        pattern: The weight's active connections.
        dense_grad: Compute the gradient of inactive connections too, as RigL does on update steps.

    Returns:
        (N, outputs, H', W'). A 1x1 kernel keeps the memory format of the images; the fast tier's results of others are
        contiguous, which its next convolution and batch norm read fastest.

    Raises:
        ValueError: If pattern or images do not fit the weight, or the kernel is larger than the padded image.
    """
    pattern.check(weight)
    window = Window(_pair(stride), _pair(padding), _pair(dilation))
    _check(x, weight, window)
    return in_float32(_sparse_conv2d, x, weight, bias, window, pattern, dense_grad)


def _sparse_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern, dense_grad: bool
) -> Tensor:
    tier = tier_of_conv(x, weight, bias, weight.shape, window)
    if tier == "dense":
        return dense(x, weight, bias, window, pattern, dense_grad)
    if torch.compiler.is_compiling():
        flat = [number for pair in window for number in pair]
        return torch.ops.rigl_lightning.sparse_conv2d(x, weight, bias, flat, pattern.tensors(), dense_grad, tier)
    return _SparseConv2d.apply(x, weight, bias, window, pattern, dense_grad, tier)


def tier_of_conv(x: Tensor, weight: Tensor, bias: Tensor | None, shape: torch.Size, window: Window) -> Tier:
    """Tier that computes a convolution by a weight, or its values, of a dense ``shape``.

    The torch tier has 1x1 kernels only, and the fast one counts the pixels of an image in 32 bits.
    """
    tier = tier_of(x, weight, bias)
    if shape[2:] == (1, 1) and window.padding == (0, 0):
        return tier
    return tier if tier == "fast" and geometry(x.shape, shape, window).has_offsets else "dense"


def dense(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern, dense_grad: bool
) -> Tensor:
    """The layer by torch's own operators, with a masked gradient."""
    weight = masked_gradient(weight, pattern, dense_grad)
    if weight.shape[2:] == (1, 1) and window.stride != (1, 1):
        # torch 2.15 writes out of bounds in the strided 1x1 backward of channels-last images.
        if not _is_pointwise(weight, window):
            return by_dense_operator(F.conv2d, x.contiguous(), weight.contiguous(), bias, *window)
        return by_dense_operator(F.conv2d, _strided(x, window), weight, bias)
    return by_dense_operator(F.conv2d, x, weight, bias, *window)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, pattern: SparsePattern, tier: str
) -> Tensor:
    """The convolution by a sparse tier; the weight may be `Stored`, here and in `backward`."""
    pointwise = _is_pointwise(weight, window)
    x = _strided(x, window) if pointwise else x
    if tier == "torch":
        out = torch_linear.forward(_by_channel(x), weight, bias, pattern)
        return _images(out, x)
    from rigl_lightning.kernels.compiled import conv as compiled_conv
    from rigl_lightning.kernels.compiled import pointwise as compiled_pointwise

    if pointwise:
        return compiled_pointwise.forward(x, weight, bias, pattern)
    return compiled_conv.forward(x, weight, bias, window, pattern)


class Needs(NamedTuple):
    """Which gradients are computed, and whether that of the weight is dense."""

    x: bool
    weight: bool
    dense: bool


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, window: Window, pattern: SparsePattern, needs: Needs, tier: str
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of images and weight, each only if needed."""
    sampled = needs.weight and not needs.dense
    if _is_pointwise(weight, window):
        read = _strided(x, window)
        grad_x, grad_weight = _pointwise_backward(grad, read, weight, pattern, needs.x, sampled, tier)
        grad_x = _spread(grad_x, x, window) if grad_x is not None else None
    else:
        from rigl_lightning.kernels.compiled import conv as compiled_conv

        grad_x, grad_weight = compiled_conv.backward(grad, x, weight, window, pattern, needs.x, sampled)
    if needs.weight and needs.dense:
        # Contiguous: torch 2.15 writes out of bounds in the strided 1x1 backward of channels-last images.
        with plain_precision():
            images, grads = widened(x).contiguous(), widened(grad).contiguous()
            grad_weight = conv2d_weight(images, weight.shape, grads, *window)
    return grad_x, grad_weight


def _pointwise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern, need_x: bool, need_weight: bool, tier: str
) -> tuple[Tensor | None, Tensor | None]:
    if tier == "fast":
        from rigl_lightning.kernels.compiled import pointwise as compiled_pointwise

        return compiled_pointwise.backward(grad, x, weight, pattern, need_x, need_weight)
    grads = torch_linear.backward(_by_channel(grad), _by_channel(x), weight, pattern, need_x, need_weight)
    return _images(grads[0], x) if grads[0] is not None else None, grads[1]


def _is_pointwise(weight: Tensor, window: Window) -> bool:
    return weight.shape[2:] == (1, 1) and window.padding == (0, 0)


def _strided(x: Tensor, window: Window) -> Tensor:
    """The pixels that a 1x1 kernel reads, in the memory format of the images."""
    if window.stride == (1, 1):
        return x
    read = _every(x, window)
    return read.contiguous(memory_format=torch.channels_last) if channels_last(x) else read


def _every(x: Tensor, window: Window) -> Tensor:
    return x[:, :, :: window.stride[0], :: window.stride[1]]


def _spread(grad: Tensor, x: Tensor, window: Window) -> Tensor:
    """Inverse of `_strided` for gradients: zero at the pixels that are not read."""
    if window.stride == (1, 1):
        return grad
    spread = torch.zeros_like(x)
    _every(spread, window).copy_(grad)
    return spread


def _by_channel(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _images(by_channel: Tensor, x: Tensor) -> Tensor:
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    images = by_channel.view(by_channel.shape[0], x.shape[0], *x.shape[2:]).transpose(0, 1)
    return images.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else layout)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(x: Tensor, weight: Tensor, window: Window) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        expected = f"(N, {weight.shape[1]}, H, W)"
        raise ValueError(f"Expected images {expected} for a weight {tuple(weight.shape)}, got {tuple(x.shape)}.")
    for size, kernel, padding, dilation in zip(
        x.shape[2:], weight.shape[2:], window.padding, window.dilation, strict=True
    ):
        if size + 2 * padding < dilation * (kernel - 1) + 1:
            raise ValueError(
                f"Expected a padded image of at least {dilation * (kernel - 1) + 1} pixels, got {size + 2 * padding}."
            )


class _SparseConv2d(torch.autograd.Function):
    """The layer in eager mode, without the cost of torch's dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        window: Window,
        pattern: SparsePattern,
        dense_grad: bool,
        tier: str,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.window, ctx.pattern, ctx.dense_grad, ctx.tier = window, pattern, dense_grad, tier
        return forward(x, weight, bias, window, pattern, tier)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        x, weight, bias = ctx.saved_tensors
        if not are_readable([grad]):
            layer = partial(dense, window=ctx.window, pattern=ctx.pattern, dense_grad=ctx.dense_grad)
            found = recorded_gradients(layer, [x, weight, bias], [need_x, need_weight, need_bias], [grad])
            return *found, None, None, None, None, None
        needs = Needs(need_x, need_weight, ctx.dense_grad)
        grad_x, grad_weight = backward(grad, x, weight, ctx.window, ctx.pattern, needs, ctx.tier)
        return grad_x, grad_weight, bias_gradient(grad, weight) if need_bias else None, None, None, None, None


def bias_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Sum over images and pixels, in the weight's precision."""
    return grad.sum((0, 2, 3), dtype=weight.dtype)


def _op_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: list[int],
    pattern: list[Tensor],
    dense_grad: bool,
    tier: str,
) -> Tensor:
    return forward(x, weight, bias, window_of(window), SparsePattern.from_tensors(pattern), tier).contiguous()


def _op_fake(x: Tensor, weight: Tensor, bias: Tensor | None, window: list[int], *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *outputs(x.shape[2:], weight.shape[2:], window_of(window)))


def _op_backward(
    grads: list[Tensor],
    _: list[Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: list[int],
    pattern: list[Tensor],
    dense_grad: bool,
    tier: str,
) -> list[Tensor]:
    (grad,), needs = grads, Needs(True, True, dense_grad)
    found = backward(grad, x, weight, window_of(window), SparsePattern.from_tensors(pattern), needs, tier)
    bias_gradients = [] if bias is None else [grad.sum((0, 2, 3))]
    return [*(tensor for tensor in found if tensor is not None), *bias_gradients]


register_operator(
    "sparse_conv2d",
    "Tensor x, Tensor weight, Tensor? bias, int[] window, Tensor[] pattern, bool dense_grad, str tier",
    "Tensor",
    _op_forward,
    _op_fake,
    Backward(_op_backward, n_differentiable=3),
)
