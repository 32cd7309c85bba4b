"""Glorot-uniform weights and zero biases, the start of both image networks."""

from __future__ import annotations

from torch import nn


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
