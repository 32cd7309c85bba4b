"""How each kind of layer computes with given weights: by torch's operators, or reading active connections only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from rigl_lightning.kernels import (
    Patterns,
    SparsePattern,
    Weights,
    sparse_conv2d,
    sparse_gru,
    sparse_linear,
    sparse_lstm,
)

Tensors = Sequence[Tensor | None]
LayerPatterns = Sequence[SparsePattern | None]


class Kind(Protocol):
    """One kind of layer. ``tensors`` are its parameters in the order of ``names``, which need not be its own."""

    @property
    def base(self) -> type[nn.Module]:
        """Class of the modules; subclasses with its forward are of this kind too."""

    @property
    def sparse(self) -> Callable[..., Any]:
        """``sparse(module, x, tensors, patterns, dense_grad, ...)``: what the module's own forward returns for ``x``.

        ``patterns`` are those of ``tensors``, None for a bias.
        """

    def names(self, module: Any) -> list[str]:
        """Attributes that hold the parameters; a missing bias is None."""

    def refusal(self, module: Any) -> str:
        """Why this module is always dense, or ""."""

    def call_refusal(self, module: Any, x: Tensor) -> str:
        """Why it is dense for this input, or ""."""

    def dense(self, module: Any, x: Tensor, tensors: Tensors) -> Tensor:
        """What the layer does to ``x``, by torch's operators."""


class LinearKind:
    """`torch.nn.Linear`."""

    base: type[nn.Module] = nn.Linear

    def names(self, module: nn.Linear) -> list[str]:
        """Weight and bias."""
        return ["weight", "bias"]

    def refusal(self, module: nn.Linear) -> str:
        """Never."""
        return ""

    def call_refusal(self, module: nn.Linear, x: Tensor) -> str:
        """Where torch has an error to raise."""
        return "" if x.ndim > 0 and x.shape[-1] == module.in_features else "inputs of another width"

    def dense(self, module: nn.Linear, x: Tensor, tensors: Tensors) -> Tensor:
        """`F.linear`."""
        weight, bias = tensors
        assert weight is not None
        return F.linear(x, weight, bias)

    def sparse(
        self, module: nn.Linear, x: Tensor, tensors: Tensors, patterns: LayerPatterns, dense_grad: bool
    ) -> Tensor:
        """`sparse_linear`."""
        return watched(linear, x, *tensors, patterns[0], dense_grad)


class Conv2dKind:
    """`torch.nn.Conv2d` of one group, with any stride, padding, dilation and padding mode."""

    base: type[nn.Module] = nn.Conv2d

    def names(self, module: nn.Conv2d) -> list[str]:
        """Weight and bias."""
        return ["weight", "bias"]

    def refusal(self, module: nn.Conv2d) -> str:
        """Of several groups."""
        return "" if module.groups == 1 else f"{module.groups} groups"

    def call_refusal(self, module: nn.Conv2d, x: Tensor) -> str:
        """Where torch has an error to raise, or an image is alone."""
        if x.ndim != 4:
            return "an image without a batch dimension"
        left, right, top, bottom = module._reversed_padding_repeated_twice
        sizes = (x.shape[2] + top + bottom, x.shape[3] + left + right)
        reaches = (d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True))
        if any(size < reach for size, reach in zip(sizes, reaches, strict=True)):
            return "images smaller than the kernel"
        return "" if x.shape[1] == module.in_channels else "inputs of another width"

    def dense(self, module: nn.Conv2d, x: Tensor, tensors: Tensors) -> Tensor:
        """As the module does it."""
        weight, bias = tensors
        assert weight is not None
        return module._conv_forward(x, weight, bias)

    def sparse(
        self, module: nn.Conv2d, x: Tensor, tensors: Tensors, patterns: LayerPatterns, dense_grad: bool
    ) -> Tensor:
        """`sparse_conv2d`."""
        x, padding = padded(module, x)
        return watched(conv2d, x, *tensors, module.stride, padding, module.dilation, patterns[0], dense_grad)


class RecurrentKind:
    """`torch.nn.GRU` and `torch.nn.LSTM`: any number of layers, both directions, dropout between layers.

    Args:
        base: The class.
    """

    def __init__(self, base: type[nn.GRU] | type[nn.LSTM]) -> None:
        self.base: type[nn.Module] = base

    def names(self, module: nn.RNNBase) -> list[str]:
        """As torch orders them: by layer, by direction."""
        return list(module._flat_weights_names)

    def refusal(self, module: nn.RNNBase) -> str:
        """With projected states."""
        return "projected states (proj_size)" if module.proj_size else ""

    def call_refusal(self, module: nn.RNNBase, x: Tensor) -> str:
        """Where torch has an error to raise, or a sequence is alone or empty."""
        if x.ndim != 3:
            return "a sequence without a batch dimension"
        return "" if x.shape[2] == module.input_size and x.numel() else "inputs of another width, or none"

    def dense(self, module: nn.RNNBase, x: Tensor, tensors: Tensors) -> Tensor:
        """`torch._VF.gru` or ``lstm``, without dropout."""
        zeros = zero_state(module, x)
        flat = [tensor for tensor in tensors if tensor is not None]
        settings = (module.bias, module.num_layers, 0.0, False, module.bidirectional, module.batch_first)
        if isinstance(module, nn.LSTM):
            return torch._VF.lstm(x, [zeros, zeros], flat, *settings)[0]
        return torch._VF.gru(x, zeros, flat, *settings)[0]

    def sparse(
        self,
        module: nn.RNNBase,
        x: Tensor,
        tensors: Tensors,
        patterns: LayerPatterns,
        dense_grad: bool,
        hx: Any = None,
    ) -> tuple[Tensor, Any]:
        """`sparse_gru` or `sparse_lstm`, layer by layer."""
        states = states_of(module, x, hx)
        function = lstm if len(states) == 2 else gru
        out, *last = watched(function, x, states, list(tensors), list(patterns), module, dense_grad)
        return out, tuple(last) if len(states) == 2 else last[0]


KINDS: tuple[Kind, ...] = (LinearKind(), Conv2dKind(), RecurrentKind(nn.GRU), RecurrentKind(nn.LSTM))


# Named as torch's functions, and given the same operands first: modes that watch calls, `FlopCounter` among them, see
# a layer whichever way it is computed.
def linear(input: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dense_grad: bool) -> Tensor:
    """`sparse_linear`."""
    return sparse_linear(input, weight, bias, pattern, dense_grad)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    pattern: SparsePattern,
    dense_grad: bool,
) -> Tensor:
    """`sparse_conv2d`."""
    return sparse_conv2d(input, weight, bias, stride, padding, dilation, pattern, dense_grad)


def gru(input: Tensor, *args: Any) -> list[Tensor]:
    """`sparse_gru` over all layers and directions; ``states`` and the last ones are (layers, batch, units)."""
    return _recurrent(input, *args)


def lstm(input: Tensor, *args: Any) -> list[Tensor]:
    """As `gru`, with `sparse_lstm`."""
    return _recurrent(input, *args)


def _recurrent(
    x: Tensor,
    states: list[Tensor],
    flat: list[Tensor],
    patterns: list[SparsePattern],
    module: nn.RNNBase,
    dense_grad: bool,
) -> list[Tensor]:
    def one_direction(x: Tensor, states: list[Tensor], i: int) -> list[Tensor]:
        size = 4 if module.bias else 2
        weights = Weights(*flat[size * i : size * (i + 1)], *([None] * (4 - size)))
        own = Patterns(*patterns[size * i : size * i + 2])
        if len(states) == 2:
            out, last = sparse_lstm(x, (states[0], states[1]), weights, own, dense_grad)
            return [out, *last]
        return list(sparse_gru(x, states[0], weights, own, dense_grad))

    return all_directions(module, x, states, one_direction)


def all_directions(
    module: nn.RNNBase, x: Tensor, states: list[Tensor], one: Callable[[Tensor, list[Tensor], int], list[Tensor]]
) -> list[Tensor]:
    """Outputs and last states of a recurrent module, layer by layer and direction by direction.

    Args:
        module: Says how many there are, and whether there is dropout between layers.
        x: As the module takes it.
        states: Of all layers and directions, each (layers x directions, batch, units).
        one: Function of a sequence (time, batch, features), its states, and the number of the layer and direction.
    """
    x = x.transpose(0, 1) if module.batch_first else x
    directions = 2 if module.bidirectional else 1
    last: list[list[Tensor]] = [[] for _ in states]
    for layer in range(module.num_layers):
        outs = []
        for direction in range(directions):
            i = layer * directions + direction
            out, *ends = one(x.flip(0) if direction else x, [s[i] for s in states], i)
            outs.append(out.flip(0) if direction else out)
            for found, end in zip(last, ends, strict=True):
                found.append(end)
        x = outs[0] if directions == 1 else torch.cat(outs, 2)
        if module.dropout and module.training and layer < module.num_layers - 1:
            x = F.dropout(x, module.dropout)
    return [x.transpose(0, 1) if module.batch_first else x, *(torch.stack(found) for found in last)]


def watched(function: Callable[..., Any], x: Tensor, *args: Any) -> Any:
    """``function(x, *args)``, seen by the modes that watch calls of torch's functions."""
    if has_torch_function_unary(x):
        return handle_torch_function(function, (x,), x, *args)
    return function(x, *args)


def states_of(module: nn.RNNBase, x: Tensor, hx: Any) -> list[Tensor]:
    """The states that a call begins with: those given, else zero; checked."""
    is_lstm = isinstance(module, nn.LSTM)
    if hx is None:
        zeros = zero_state(module, x)
        hx = (zeros, zeros) if is_lstm else zeros
    module.check_forward_args(x, hx, None)
    return list(hx) if is_lstm else [hx]


def zero_state(module: nn.RNNBase, x: Tensor) -> Tensor:
    """The state before a batch of sequences."""
    batch = x.shape[0] if module.batch_first else x.shape[1]
    return x.new_zeros(module.num_layers * (2 if module.bidirectional else 1), batch, module.hidden_size)


def padded(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, Any]:
    """The images with the padding that `sparse_conv2d` does not do, and the one it does."""
    sides = module._reversed_padding_repeated_twice
    if module.padding_mode != "zeros":
        return F.pad(x, sides, mode=module.padding_mode), 0
    if not isinstance(module.padding, str):
        return x, module.padding
    left, right, top, bottom = sides
    return (x, (top, left)) if left == right and top == bottom else (F.pad(x, sides), 0)
