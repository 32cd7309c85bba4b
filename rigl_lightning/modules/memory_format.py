"""The order of a network's images in memory, where torch computes right in it."""

from __future__ import annotations

import warnings

import torch
from torch import nn

_LEAST_CHANNELS = 8


def memory_format(model: nn.Module, channels_last: bool) -> torch.memory_format:
    """``torch.channels_last`` if asked for, unless the network would break in it.

    On the CPU the backward pass of a strided 1x1 convolution with fewer than eight input channels writes out of bounds
    on channels-last images (seen with torch 2.15): the process crashes, or worse, does not. Narrow residual networks
    have such shortcuts. They stay contiguous, with a warning.
    """
    if not channels_last:
        return torch.contiguous_format
    unsafe = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and _is_unsafe(layer)]
    if unsafe:
        warnings.warn(
            f"channels_last is ignored: {unsafe[0]!r} is a strided 1x1 convolution of fewer than {_LEAST_CHANNELS} "
            "channels, whose gradients torch computes wrongly in that order on the CPU. Set "
            "`channels_last` of the module to False, or a wider network.",
            stacklevel=3,
        )
        return torch.contiguous_format
    return torch.channels_last


def _is_unsafe(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < _LEAST_CHANNELS
