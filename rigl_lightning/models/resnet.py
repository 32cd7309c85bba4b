"""ResNet-50 of any width, for Small-Dense and Big-Sparse, and its small relative: timm's, every layer scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from rigl_lightning.models.channels import scaled_channels
from rigl_lightning.models.initialisation import fan_in_normal_

STAGE_BLOCKS = (3, 4, 6, 3)
STAGE_CHANNELS = (64, 128, 256, 512)
SMALL_STAGE_BLOCKS = (1, 1, 1, 1)
SMALL_STAGE_CHANNELS = (8, 16, 32, 64)


def resnet50(width: float = 1.0, num_classes: int = 1000) -> ResNet:
    """Images (N, 3, H, W) to logits (N, num_classes); stride in the 3x3 convolutions, last gamma of a block 0.

    At width 1 it is timm's ``resnet50``, parameter by parameter; weights start as the authors' do, see
    `rigl_lightning.models.initialisation.fan_in_normal_`. Channels are rounded down, and the last convolution of
    a block has four times the channels of its first, as in the authors' (rigl/imagenet_resnet/resnet_model.py, commit
    d39fc7d).

    Args:
        width: Factor on the channels of every layer, the stem included.
        num_classes: Number of logits.

    Raises:
        ValueError: If ``width`` leaves the stem no channel.

    >>> resnet50(0.25, num_classes=10).conv1.out_channels
    16
    """
    channels = _scaled(STAGE_CHANNELS, width)
    stem = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
    return _network(STAGE_BLOCKS, channels, num_classes, stem)


def small_image_resnet(
    width: float = 1.0,
    num_classes: int = 10,
    blocks: tuple[int, int, int, int] = SMALL_STAGE_BLOCKS,
    channels: tuple[int, int, int, int] = SMALL_STAGE_CHANNELS,
) -> ResNet:
    """ResNet-50's relative for images of 8 to 64 pixels: a 3x3 stem without stride or pooling, and fewer blocks.

    Blocks, initialisation and the rounding of channels are those of `resnet50`.

    Args:
        width: Factor on the channels of every layer, the stem included.
        num_classes: Number of logits.
        blocks: Bottleneck blocks of each of the four stages; the last three halve the resolution.
        channels: Channels of the 3x3 convolutions of each stage; its outputs have four times as many, and the stem as
            many as the outputs of half the first stage.

    Raises:
        ValueError: If ``width`` leaves a layer no channel.

    >>> sum(p.numel() for p in small_image_resnet().parameters())
    130554
    """
    stem = nn.Conv2d(3, scaled_channels(2 * channels[0], width), 3, padding=1, bias=False)
    model = _network(blocks, _scaled(channels, width), num_classes, stem)
    model.maxpool = nn.Identity()  # type: ignore[assignment]
    return model


def _scaled(channels: Sequence[int], width: float) -> tuple[int, ...]:
    return tuple(scaled_channels(c, width) for c in channels)


def _network(blocks: Sequence[int], channels: Sequence[int], num_classes: int, stem: nn.Conv2d) -> ResNet:
    model = ResNet(cast(Any, Bottleneck), tuple(blocks), num_classes=num_classes, channels=tuple(channels))
    _set_stem(model, stem)
    model.init_weights(zero_init_last=True)
    fan_in_normal_(model)
    return model


def _set_stem(model: ResNet, stem: nn.Conv2d) -> None:
    # timm fixes the stem at 64 channels: replace it, and what reads it. The shortcut is replaced whole, since at a
    # quarter of the width timm finds as many channels after the first block as in its stem and leaves it out.
    first: Any = model.get_submodule("layer1.0")
    inner, outer = first.conv1.out_channels, first.conv3.out_channels
    model.conv1 = stem  # type: ignore[assignment]
    model.bn1 = nn.BatchNorm2d(stem.out_channels)
    first.conv1 = nn.Conv2d(stem.out_channels, inner, 1, bias=False)
    first.downsample = nn.Sequential(nn.Conv2d(stem.out_channels, outer, 1, bias=False), nn.BatchNorm2d(outer))
