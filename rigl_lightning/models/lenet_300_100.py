"""LeNet-300-100: the fully connected MNIST network of appendix B of the paper."""

from __future__ import annotations

from torch import nn

from rigl_lightning.models.channels import scaled_channels
from rigl_lightning.models.initialisation import glorot_uniform_


class LeNet300100(nn.Sequential):
    """Images (N, ...) to logits (N, num_classes): flatten, then three linear layers with ReLU between.

    Args:
        in_features: Pixels times channels of one image: 784 for MNIST, 64 for the 8x8 digits.
        num_classes: Number of logits.
        width: Factor on the 300 and the 100 units; a fraction gives the small dense baselines.

    Raises:
        ValueError: If ``width`` leaves a layer no unit.

    >>> import torch
    >>> LeNet300100(in_features=64)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, in_features: int = 784, num_classes: int = 10, width: float = 1.0) -> None:
        first, second = scaled_channels(300, width), scaled_channels(100, width)
        super().__init__(
            nn.Flatten(),
            nn.Linear(in_features, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, num_classes),
        )
        glorot_uniform_(self)
