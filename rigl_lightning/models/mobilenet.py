"""MobileNet-v1 and v2 of any width, from timm's blocks, with the paper's choices: ReLU, and a linear classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

from rigl_lightning.models.channels import scaled_channels

# timm's notation: block type, repeats, kernel, stride, expansion, channels.
V1_BLOCKS = ("dsa_r1_k3_s1_c64", "dsa_r2_k3_s2_c128", "dsa_r2_k3_s2_c256", "dsa_r6_k3_s2_c512", "dsa_r2_k3_s2_c1024")
V2_BLOCKS = (
    "ds_r1_k3_s1_c16",
    "ir_r2_k3_s2_e6_c24",
    "ir_r3_k3_s2_e6_c32",
    "ir_r4_k3_s2_e6_c64",
    "ir_r3_k3_s1_e6_c96",
    "ir_r3_k3_s2_e6_c160",
    "ir_r1_k3_s1_e6_c320",
)
STEM_CHANNELS = 32
V2_HEAD_CHANNELS = 1280


def mobilenet_v1(
    width: float = 1.0, num_classes: int = 1000, divisor: int = 8, blocks: Sequence[str] = V1_BLOCKS
) -> EfficientNet:
    """Images (N, 3, H, W) to logits (N, num_classes): a stem and 13 depthwise-separable blocks (arXiv 1704.04861).

    Args:
        width: Factor on the channels of every layer, the stem included.
        num_classes: Number of logits.
        divisor: Channels are multiples of it: 8 where the authors train (rigl/imagenet_resnet/mobilenetv1_model.py,
            commit d39fc7d), 1 where they count (colabs/MobileNet_Counting.ipynb).
        blocks: Its blocks in timm's notation; fewer and with less stride for small images.

    >>> mobilenet_v1(0.5, num_classes=10).conv_stem.out_channels
    16
    """
    return _network(blocks, width, num_classes, head_channels=0, divisor=divisor)


def mobilenet_v2(
    width: float = 1.0,
    num_classes: int = 1000,
    divisor: int = 8,
    blocks: Sequence[str] = V2_BLOCKS,
    head_channels: int = V2_HEAD_CHANNELS,
) -> EfficientNet:
    """Images (N, 3, H, W) to logits (N, num_classes): a stem, 17 inverted residuals, a 1x1 head (arXiv 1801.04381).

    As in the authors' mobilenetv2_model.py a width below 1 leaves the head its channels.

    Args:
        width: Factor on the channels of every layer.
        num_classes: Number of logits.
        divisor: Channels are multiples of it.
        blocks: Its blocks in timm's notation; fewer and with less stride for small images.
        head_channels: Channels of the last 1x1 convolution at widths up to 1.

    >>> mobilenet_v2(0.5, num_classes=10).classifier.in_features
    1280
    """
    head_channels = max(head_channels, scaled_channels(head_channels, width, divisor))
    return _network(blocks, width, num_classes, head_channels, divisor)


def _network(blocks: Sequence[str], width: float, num_classes: int, head_channels: int, divisor: int) -> EfficientNet:
    return EfficientNet(
        decode_arch_def([[block] for block in blocks]),
        num_classes=num_classes,
        num_features=head_channels,
        stem_size=STEM_CHANNELS,
        round_chs_fn=partial(scaled_channels, width=width, divisor=divisor),
        act_layer=nn.ReLU,
    )
