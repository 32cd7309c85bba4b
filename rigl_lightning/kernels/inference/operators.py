"""Operators for inference on values and indices, as `torch.compile` and `torch.jit.trace` can record them.

The tensors of a sparse weight come as a list: values, columns, parts, row starts; see `products.Product`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rigl_lightning.kernels.conv_geometry import outputs, window_of
from rigl_lightning.kernels.registration import register_operator
from rigl_lightning.kernels.settings import readable


def _linear(x: Tensor, weight: list[Tensor], bias: Tensor | None, bounds: list[float]) -> Tensor:
    from rigl_lightning.kernels.inference.products import Product, plan_linear

    if not x.shape[0]:
        return x.new_empty(0, weight[2].shape[1])
    plan = plan_linear(x.shape[0], x.shape[1], Product.of(weight, bias, bounds))
    return plan(readable(x))


def _linear_fake(x: Tensor, weight: list[Tensor], *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight[2].shape[1])


linear_op = register_operator(
    "compact_linear", "Tensor x, Tensor[] weight, Tensor? bias, float[] bounds", "Tensor", _linear, _linear_fake
)
"""Linear layer of (M, inputs), float32 on the CPU."""


def _conv2d(
    x: Tensor,
    weight: list[Tensor],
    bias: Tensor | None,
    addend: Tensor | None,
    shape: list[int],
    bounds: list[float],
) -> Tensor:
    from rigl_lightning.kernels.inference.products import Product, plan_conv2d

    n, c, h, w = x.shape
    p = Product.of(weight, bias, bounds)
    plan = plan_conv2d((n, c, h, w), p, (shape[0], shape[1]), window_of(shape[2:8]), shape[8], addend is not None)
    return plan(readable(x), readable(addend) if addend is not None else None)


def _conv2d_fake(x: Tensor, weight: list[Tensor], bias: Any, addend: Any, shape: list[int], _: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight[2].shape[1], *outputs(x.shape[2:], shape[:2], window_of(shape[2:8])))


conv2d_op = register_operator(
    "compact_conv2d",
    "Tensor x, Tensor[] weight, Tensor? bias, Tensor? addend, SymInt[] shape, float[] bounds",
    "Tensor",
    _conv2d,
    _conv2d_fake,
)
"""Convolution of images (N, C, H, W), float32 on the CPU, with ``shape`` kernel, window and groups."""


def _recurrent(
    x: Tensor,
    states: list[Tensor],
    inputs: list[Tensor],
    hidden: list[Tensor],
    bias: Tensor | None,
    hidden_bias: Tensor | None,
) -> list[Tensor]:
    from rigl_lightning.kernels.inference.recurrent import recurrent

    out, *last = recurrent(
        x, states, (inputs[0], inputs[1], inputs[2]), (hidden[0], hidden[1], hidden[2]), bias, hidden_bias
    )
    return [out.contiguous(), *last]


def _recurrent_fake(x: Tensor, states: list[Tensor], *_: Any) -> list[Tensor]:
    units = states[0].shape[1]
    return [x.new_empty(x.shape[0], x.shape[1], units), *(x.new_empty(x.shape[1], units) for _ in states)]


recurrent_op = register_operator(
    "compact_recurrent",
    "Tensor x, Tensor[] states, Tensor[] inputs, Tensor[] hidden, Tensor? bias, Tensor? hidden_bias",
    "Tensor[]",
    _recurrent,
    _recurrent_fake,
)
"""One direction of a GRU or LSTM layer, see `recurrent.recurrent`."""
