"""ResNet-50 of any width: timm's network with every layer scaled, for Small-Dense and Big-Sparse."""

from __future__ import annotations

from typing import Any, cast

from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from rigl_lightning.models.channels import scaled_channels

STAGE_BLOCKS = (3, 4, 6, 3)
STAGE_CHANNELS = (64, 128, 256, 512)


def resnet50(width: float = 1.0, num_classes: int = 1000) -> ResNet:
    """Images (N, 3, H, W) to logits (N, num_classes); stride in the 3x3 convolutions, last gamma of a block 0.

    At width 1 it is timm's ``resnet50``, parameter by parameter. Channels are rounded down, and the last convolution of
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
    channels = tuple(scaled_channels(c, width) for c in STAGE_CHANNELS)
    model = ResNet(cast(Any, Bottleneck), STAGE_BLOCKS, num_classes=num_classes, channels=channels)
    _set_stem_channels(model, channels[0])
    model.init_weights(zero_init_last=True)
    return model


def _set_stem_channels(model: ResNet, channels: int) -> None:
    # timm fixes the stem at 64 channels: replace it, and what reads it. The shortcut is replaced whole, since at a
    # quarter of the width timm finds as many channels after the first block as in its stem and leaves it out.
    first: Any = model.get_submodule("layer1.0")
    inner, outer = first.conv1.out_channels, first.conv3.out_channels
    model.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)  # type: ignore[assignment]
    model.bn1 = nn.BatchNorm2d(channels)
    first.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
    first.downsample = nn.Sequential(nn.Conv2d(channels, outer, 1, bias=False), nn.BatchNorm2d(outer))
