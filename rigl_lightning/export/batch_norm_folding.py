"""Folding a batch norm into the convolution before it: the same function, one operation fewer."""

from __future__ import annotations

from copy import copy

import torch
from torch import nn

from rigl_lightning.base.errors import SettingError


@torch.no_grad()
def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution that equals ``norm(conv(x))`` in evaluation mode; zeros of the weight stay zeros.

    Raises:
        ValueError: If the norm keeps no running statistics, or has another number of channels.

    >>> conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    >>> _ = conv.weight.data.fill_(2.0), norm.running_mean.fill_(1.0), norm.running_var.fill_(4.0)
    >>> folded = fold_batch_norm(conv, norm)
    >>> folded.weight.item(), folded.bias.item()
    (1.0, -0.5)
    """
    if norm.running_mean is None or norm.running_var is None or norm.num_features != conv.out_channels:
        raise SettingError(
            f"Expected a batch norm of {conv.out_channels} channels with running statistics, got {norm}. "
            "Leave it as it is."
        )
    # In float64: the running variance may be tiny, and this happens once.
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale * norm.weight.double() if norm.weight is not None else scale
    shift = norm.bias.double() if norm.bias is not None else torch.zeros_like(scale)
    before = conv.bias.double() if conv.bias is not None else torch.zeros_like(scale)
    dtype = conv.weight.dtype
    folded = copy(conv)
    folded._parameters = dict(conv._parameters)
    factor = scale.view(-1, *[1] * (conv.weight.ndim - 1))
    # A zero times an infinite scale would not stay a zero.
    weight = torch.where(conv.weight == 0, conv.weight.double(), conv.weight.double() * factor)
    folded.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    folded.bias = nn.Parameter(((before - norm.running_mean.double()) * scale + shift).to(dtype), requires_grad=False)
    return folded
