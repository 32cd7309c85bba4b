"""Operators for inference on values and indices, as `torch.compile` and `torch.jit.trace` can record them.

The tensors of a sparse weight come as a list: values, columns, parts, row starts; see `products.Product`. The
operators' schemas are written out because torch 2.6 does not understand our annotations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.conv_geometry import Window
from rigl_lightning.kernels.settings import readable

Numbers = tuple[float, float]


@torch.library.custom_op(
    "rigl_lightning::compact_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor[] weight, Tensor? bias, float[] bounds) -> Tensor",
)
def linear_op(x: Tensor, weight: list[Tensor], bias: Tensor | None, bounds: list[float]) -> Tensor:
    """Linear layer of (M, inputs), float32 on the CPU."""
    from rigl_lightning.kernels.inference.products import Product, plan_linear

    if not x.shape[0]:
        return x.new_empty(0, weight[2].shape[1])
    plan = plan_linear(x.shape[0], x.shape[1], Product.of(weight, bias, bounds))
    return plan(readable(x))


@linear_op.register_fake
def _(x: Tensor, weight: list[Tensor], bias: Tensor | None, bounds: list[float]) -> Tensor:
    return x.new_empty(x.shape[0], weight[2].shape[1])


@torch.library.custom_op(
    "rigl_lightning::compact_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor[] weight, Tensor? bias, Tensor? addend, SymInt[] shape, float[] bounds) -> Tensor",
)
def conv2d_op(
    x: Tensor,
    weight: list[Tensor],
    bias: Tensor | None,
    addend: Tensor | None,
    shape: list[int],
    bounds: list[float],
) -> Tensor:
    """Convolution of images (N, C, H, W), float32 on the CPU, with ``shape`` kernel, window and groups."""
    from rigl_lightning.kernels.inference.products import Product, plan_conv2d

    n, c, h, w = x.shape
    p = Product.of(weight, bias, bounds)
    plan = plan_conv2d((n, c, h, w), p, (shape[0], shape[1]), window_of(shape[2:8]), shape[8], addend is not None)
    return plan(readable(x), readable(addend) if addend is not None else None)


@conv2d_op.register_fake
def _(
    x: Tensor,
    weight: list[Tensor],
    bias: Tensor | None,
    addend: Tensor | None,
    shape: list[int],
    bounds: list[float],
) -> Tensor:
    kernel, w = shape[:2], window_of(shape[2:8])
    sizes = [
        (x.shape[2 + i] + 2 * w.padding[i] - w.dilation[i] * (kernel[i] - 1) - 1) // w.stride[i] + 1 for i in range(2)
    ]
    return x.new_empty(x.shape[0], weight[2].shape[1], *sizes)


@torch.library.custom_op(
    "rigl_lightning::compact_recurrent",
    mutates_args=(),
    schema="(Tensor x, Tensor[] states, Tensor[] inputs, "
    "Tensor[] hidden, Tensor? bias, Tensor? hidden_bias) -> Tensor[]",
)
def recurrent_op(
    x: Tensor,
    states: list[Tensor],
    inputs: list[Tensor],
    hidden: list[Tensor],
    bias: Tensor | None,
    hidden_bias: Tensor | None,
) -> list[Tensor]:
    """One direction of a GRU or LSTM layer, see `recurrent.recurrent`."""
    from rigl_lightning.kernels.inference.recurrent import recurrent

    out, *last = recurrent(
        x, states, (inputs[0], inputs[1], inputs[2]), (hidden[0], hidden[1], hidden[2]), bias, hidden_bias
    )
    return [out.contiguous(), *last]


@recurrent_op.register_fake
def _(
    x: Tensor,
    states: list[Tensor],
    inputs: list[Tensor],
    hidden: list[Tensor],
    bias: Tensor | None,
    hidden_bias: Tensor | None,
) -> list[Tensor]:
    units = states[0].shape[1]
    return [x.new_empty(x.shape[0], x.shape[1], units), *(x.new_empty(x.shape[1], units) for _ in states)]


def window_of(flat: list[int]) -> Window:
    """Stride, padding and dilation from six numbers."""
    return Window((flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5]))
