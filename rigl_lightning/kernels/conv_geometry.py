"""Geometry of a convolution: where the pixels of a padded, phase-split image lie, and what each tap reads.

With stride s, pixels are sorted into s x s planes by their position modulo s. Within a plane the pixels that one tap
reads for consecutive outputs are consecutive, so any stride, padding and dilation is a shift of a contiguous range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.workspace import of_no_mode

Pair = tuple[int, int]
OFFSET_LIMIT = 2**31


class Window(NamedTuple):
    """Stride, padding and dilation, each (vertical, horizontal)."""

    stride: Pair
    padding: Pair
    dilation: Pair


def window_of(flat: Sequence[int]) -> Window:
    """Stride, padding and dilation from six numbers."""
    return Window((flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5]))


def outputs(size: Sequence[int], kernel: Sequence[int], window: Window) -> list[int]:
    """Height and width of the outputs, of images and a kernel of these heights and widths."""
    axes = zip(size, kernel, window.stride, window.padding, window.dilation, strict=True)
    return [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, padding, dilation in axes]


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution, height or width.

    Attributes:
        size: Pixels of the input.
        kernel: Taps.
        stride: Pixels from one output to the next.
        padding: Zeros on either side.
        dilation: Pixels from one tap to the next.
    """

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def outputs(self) -> int:
        """Number of outputs; 0 or less if the kernel does not fit."""
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def plane(self) -> int:
        """Padded pixels of one phase."""
        return -(-(self.size + 2 * self.padding) // self.stride)

    @property
    def reach(self) -> int:
        """Largest shift of a tap within its plane."""
        return self.dilation * (self.kernel - 1) // self.stride

    @property
    def first(self) -> int:
        """First index, in a plane, of a real pixel of any phase."""
        return self.padding // self.stride

    @property
    def real(self) -> int:
        """Indices of a plane from `first` that hold a real pixel in any phase."""
        return (self.size - 1 + self.padding) // self.stride - self.first + 1

    @property
    def margin(self) -> int:
        """Zeros around the gradient of the outputs, so that every input finds the outputs it reached."""
        return self.reach + (1 if self.stride > 1 else 0)

    def taps(self) -> list[Pair]:
        """(phase, shift) of every tap."""
        return [(k * self.dilation % self.stride, k * self.dilation // self.stride) for k in range(self.kernel)]

    def pixels(self) -> list[Pair]:
        """(phase, index in its plane) of every real pixel."""
        return [((i + self.padding) % self.stride, (i + self.padding) // self.stride) for i in range(self.size)]


@dataclass(frozen=True)
class Geometry:
    """A convolution of ``channels`` planes whose pixels are ``lanes`` images wide.

    Attributes:
        height: The vertical axis.
        width: The horizontal axis.
        channels: Input channels.
        outputs: Output channels.
        lanes: Images side by side in one pixel.
    """

    height: Axis
    width: Axis
    channels: int
    outputs: int
    lanes: int

    @property
    def phases(self) -> int:
        """Planes of one channel."""
        return self.height.stride * self.width.stride

    @property
    def pitch(self) -> int:
        """Floats from one line of a plane to the next."""
        return self.width.plane * self.lanes

    @property
    def plane(self) -> int:
        """Floats of one plane of one channel of one block of images."""
        return self.height.plane * self.pitch

    @property
    def pixels(self) -> int:
        """Pixels of all padded planes of one image."""
        return self.channels * self.phases * self.height.plane * self.width.plane

    @property
    def grad_pixels(self) -> int:
        """Pixels of all padded planes of the gradient of one image."""
        return self.outputs * (self.grad_plane // self.lanes)

    @property
    def has_offsets(self) -> bool:
        """Whether `tables` can hold the offset of every pixel: 2**31 pixels are too many."""
        return max(self.pixels, self.grad_pixels) < OFFSET_LIMIT

    @property
    def grad_pitch(self) -> int:
        """Floats from one line of the padded gradient to the next."""
        return (self.width.outputs + 2 * self.width.margin) * self.lanes

    @property
    def grad_plane(self) -> int:
        """Floats of one channel of the padded gradient of one block of images."""
        return (self.height.outputs + 2 * self.height.margin) * self.grad_pitch


def channels_last(x: Tensor) -> bool:
    """Whether channels, rather than pixels, lie side by side."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def geometry(images: Sequence[int], weight: Sequence[int], window: Window, lanes: int = 1) -> Geometry:
    """Geometry of images (N, C, H, W) and a weight (outputs, C, height, width), so many images side by side."""
    height, width = (
        Axis(images[2 + i], weight[2 + i], window.stride[i], window.padding[i], window.dilation[i]) for i in (0, 1)
    )
    return Geometry(height, width, images[1], weight[0], lanes)


@dataclass(frozen=True)
class Tables:
    """Offsets of a `Geometry`, as the kernels read them.

    Attributes:
        lines: int64 (input height,), of a line within its channel, phases included, in floats.
        pixels: int64 (input width,), of a pixel within its line, phases included, in floats.
        taps: int32 (columns of the weight,), of the input that a column reads for the first output, in pixels.
        groups: int32 (columns of the weight,), the channel and phase whose gradient a column feeds.
        shifts: int32 (columns of the weight,), of the gradient that a column reads for the first real input, in pixels.
        grad_lines: int64 (input height,), of a line within a channel of the gradient of the inputs, in floats.
        grad_pixels: int64 (input width,), of a pixel within that line, in floats.
    """

    lines: Tensor
    pixels: Tensor
    taps: Tensor
    groups: Tensor
    shifts: Tensor
    grad_lines: Tensor
    grad_pixels: Tensor


@lru_cache(maxsize=256)
@of_no_mode
def tables(g: Geometry) -> Tables:
    """Offsets of every line, pixel and tap.

    Raises:
        ValueError: If there are too many pixels, see `Geometry.has_offsets`.
    """
    if not g.has_offsets:
        raise ValueError(f"Expected images of fewer than 2**31 padded pixels, got {max(g.pixels, g.grad_pixels)}.")
    h, w = g.height, g.width
    plane, grad_pitch = h.plane * w.plane, g.grad_pitch // g.lanes
    real_pitch, real_plane = w.real * g.lanes, h.real * w.real * g.lanes
    taps = [(ph * w.stride + pw, sh, sw) for ph, sh in h.taps() for pw, sw in w.taps()]
    reads = torch.tensor([phase * plane + sh * w.plane + sw for phase, sh, sw in taps])
    phases = torch.tensor([phase for phase, _, _ in taps])
    shifts = [(h.margin + h.first - sh) * grad_pitch + w.margin + w.first - sw for _, sh, sw in taps]
    channels = torch.arange(g.channels)[:, None]
    return Tables(
        lines=torch.tensor([phase * w.stride * g.plane + i * g.pitch for phase, i in h.pixels()]),
        pixels=torch.tensor([phase * g.plane + i * g.lanes for phase, i in w.pixels()]),
        taps=(channels * g.phases * plane + reads).view(-1).int(),
        groups=(channels * g.phases + phases).view(-1).int(),
        shifts=torch.tensor(shifts).repeat(g.channels).int(),
        grad_lines=torch.tensor(
            [phase * w.stride * real_plane + (i - h.first) * real_pitch for phase, i in h.pixels()]
        ),
        grad_pixels=torch.tensor([phase * real_plane + (i - w.first) * g.lanes for phase, i in w.pixels()]),
    )
