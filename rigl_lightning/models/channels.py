"""How a width factor scales a number of channels: the rule of the authors' networks."""

from __future__ import annotations


def scaled_channels(channels: int, width: float, divisor: int = 1) -> int:
    """Channels of a layer in a network of another width.

    Rounded down (rigl/imagenet_resnet/resnet_model.py, commit d39fc7d), or to the nearest multiple of ``divisor`` that
    does not take away more than a tenth (``_make_divisible`` in mobilenetv1_model.py, the same commit).

    Args:
        channels: Channels at width 1.
        width: Factor, above 0.
        divisor: The result is a multiple of it.

    Raises:
        ValueError: If no channel is left.

    >>> scaled_channels(64, 0.47), scaled_channels(64, 0.47, divisor=8), scaled_channels(32, 0.285, divisor=8)
    (30, 32, 16)
    """
    wanted = int(channels * width)
    if wanted < 1:
        raise ValueError(f"Expected a width that leaves a layer of {channels} channels at least one, got {width}.")
    rounded = max(divisor, (wanted + divisor // 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * wanted else rounded + divisor
