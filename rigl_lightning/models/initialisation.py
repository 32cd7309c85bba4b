"""How the authors' networks start where torch's and timm's defaults are others."""

from __future__ import annotations

import torch
from torch import nn

CLASSIFIER_STD = 0.01
TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal that is drawn anew outside of two of them."""


def glorot_uniform_(model: nn.Module) -> None:
    """Initialise every convolution and linear layer of ``model`` in place.

    The authors' TensorFlow code leaves the initialiser of its kernels unset, which means Glorot-uniform
    there and something else in torch; hence this explicit call.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def fan_in_normal_(model: nn.Module) -> None:
    """Initialise every convolution and linear layer of ``model`` as the authors' ResNet-50, in place.

    Convolutions: normal of variance 1 / fan-in (not 2 / fan-out as in timm), truncated at two standard deviations;
    linear layers: normal of standard deviation 0.01, biases 0 (rigl/imagenet_resnet/resnet_model.py, commit d39fc7d).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            std = (1 / module.weight[0].numel()) ** 0.5 / TRUNCATED_STD
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=CLASSIFIER_STD)
            nn.init.zeros_(module.bias)
