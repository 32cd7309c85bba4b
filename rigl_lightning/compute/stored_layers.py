"""How each kind of layer computes from weights that are stored as the values of their active connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.compute.layers import LayerPatterns, all_directions, padded, states_of, watched
from rigl_lightning.kernels import (
    Patterns,
    SparsePattern,
    Stored,
    Weights,
    stored_conv2d,
    stored_linear,
    stored_recurrent,
)
from rigl_lightning.kernels.conv_geometry import Window
from rigl_lightning.kernels.precision import LOW
from rigl_lightning.kernels.stored_types import TakeGradient
from rigl_lightning.kernels.tiers import tier_of


class StoredTensors:
    """The parameters of a layer in the order of its kind's names.

    Args:
        tensors: Values of the active connections of compact weights; other parameters as they are.
        shapes: Dense shapes of the compact weights; None for the others.
        patterns: Of the weights; None for a bias.
        takes: What the dense gradient of each is given to; None for nothing.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor | None],
        shapes: Sequence[torch.Size | None],
        patterns: LayerPatterns,
        takes: Sequence[TakeGradient | None],
    ) -> None:
        self.tensors, self.shapes, self.patterns, self.takes = tensors, shapes, patterns, takes

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> StoredTensors:
        """The same with other parameters."""
        return StoredTensors(tensors, self.shapes, self.patterns, self.takes)

    def pattern(self, i: int) -> SparsePattern:
        """That of the i-th parameter, a weight."""
        found = self.patterns[i]
        assert found is not None
        return found

    def weight(self, i: int) -> Any:
        """The i-th parameter as the kernels take it."""
        tensor, shape = self.tensors[i], self.shapes[i]
        return tensor if tensor is None or shape is None else Stored(tensor, shape)


def call_refusal(module: nn.Module, x: Tensor) -> str:
    """Why no kernel computes the module from values, or ""."""
    is_narrow = torch.is_autocast_enabled("cpu") and x.dtype in LOW
    tier = tier_of(x.new_empty((), dtype=torch.float32) if is_narrow else x)
    if tier == "dense":
        return "no sparse kernel takes its inputs"
    if (
        isinstance(module, nn.Conv2d)
        and tier != "fast"
        and (module.kernel_size != (1, 1) or module.padding not in ((0, 0), "valid"))
    ):
        return "its convolution needs numba"
    return ""


def compute_stored(module: nn.Module, x: Tensor, stored: StoredTensors, *rest: Any, **named: Any) -> Any:
    """What the module's own forward returns for ``x``."""
    if isinstance(module, nn.Linear):
        return watched(linear, x, stored.tensors[0], stored)
    if isinstance(module, nn.Conv2d):
        x, padding = padded(module, x)
        window = Window(_pair(module.stride), _pair(padding), _pair(module.dilation))
        return watched(conv2d, x, stored.tensors[0], stored, window)
    assert isinstance(module, nn.RNNBase)
    states = states_of(module, x, *rest, *named.values()) if rest or named else states_of(module, x, None)
    out, *last = watched(lstm if len(states) == 2 else gru, x, states, list(stored.tensors), stored, module)
    return out, tuple(last) if len(states) == 2 else last[0]


# Named as torch's functions, and given the same operands first, as in `layers`.
def linear(input: Tensor, weight: Tensor, stored: StoredTensors) -> Tensor:
    """`stored_linear`."""
    return stored_linear(input, stored.weight(0), stored.tensors[1], stored.pattern(0), stored.takes[0])


def conv2d(input: Tensor, weight: Tensor, stored: StoredTensors, window: Window) -> Tensor:
    """`stored_conv2d`."""
    return stored_conv2d(input, stored.weight(0), stored.tensors[1], window, stored.pattern(0), stored.takes[0])


def gru(input: Tensor, *args: Any) -> list[Tensor]:
    """`stored_recurrent` over all layers and directions."""
    return _recurrent(input, *args)


def lstm(input: Tensor, *args: Any) -> list[Tensor]:
    """As `gru`, with two states."""
    return _recurrent(input, *args)


def _recurrent(
    x: Tensor, states: list[Tensor], flat: list[Tensor], stored: StoredTensors, module: nn.RNNBase
) -> list[Tensor]:
    size = 4 if module.bias else 2

    def one_direction(x: Tensor, states: list[Tensor], i: int) -> list[Tensor]:
        own = range(size * i, size * (i + 1))
        weights = Weights(*map(stored.weight, own), *([None] * (4 - size)))
        patterns = Patterns(*(stored.pattern(k) for k in own[:2]))
        return stored_recurrent(x, states, weights, patterns, [stored.takes[k] for k in own[:2]])

    return all_directions(module, x, states, one_direction)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
