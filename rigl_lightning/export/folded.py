"""FoldedConv2d: a dense convolution with the batch norm, the addition and the ReLU that followed it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)


class FoldedConv2d(nn.Module):
    """``clamp(conv(x) + addend, low, high)`` with a dense weight.

    Args:
        conv: What to compute; its tensors are shared, not copied.
        bounds: Lower and upper bound of the outputs: (0, inf) is ReLU.
    """

    def __init__(self, conv: nn.Conv2d, bounds: Bounds = UNBOUNDED) -> None:
        super().__init__()
        self.weight, self.bias, self.bounds = conv.weight, conv.bias, bounds
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.margins, self.padding_mode = margins_of(conv), conv.padding_mode

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) or (C, H, W), and what is added to the outputs before they are bounded."""
        x, padding = padded(x, self.margins, self.padding_mode)
        out = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return finished(out, addend, self.bounds)

    def extra_repr(self) -> str:
        """Shape and bounds."""
        return f"{tuple(self.weight.shape)}, bounds={self.bounds}"


def margins_of(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Pixels added (left, right, top, bottom)."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        sides: list[int] = []
        for kernel, dilation in zip(conv.kernel_size, conv.dilation, strict=True):
            total = dilation * (kernel - 1)
            sides = [total // 2, total - total // 2, *sides]
        return (sides[0], sides[1], sides[2], sides[3])
    vertical, horizontal = int(conv.padding[0]), int(conv.padding[1])
    return (horizontal, horizontal, vertical, vertical)


def padded(x: Tensor, margins: tuple[int, int, int, int], mode: str) -> tuple[Tensor, tuple[int, int]]:
    """Images, and the symmetric zero padding that the convolution itself still has to add."""
    left, right, top, bottom = margins
    if mode == "zeros" and left == right and top == bottom:
        return x, (top, left)
    return F.pad(x, margins, mode="constant" if mode == "zeros" else mode), (0, 0)


def finished(out: Tensor, addend: Tensor | None, bounds: Bounds) -> Tensor:
    """``clamp(out + addend)``, in the memory of ``out`` where nobody can see it."""
    if addend is not None:
        out = out + addend
    if bounds == UNBOUNDED:
        return out
    in_place = not (torch.is_grad_enabled() and out.requires_grad)
    if bounds == (0.0, math.inf):
        return F.relu(out, inplace=in_place)
    return out.clamp_(*bounds) if in_place else out.clamp(*bounds)
