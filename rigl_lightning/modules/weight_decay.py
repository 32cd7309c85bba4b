"""Which parameters the L2 penalty acts on."""

from __future__ import annotations

from typing import Any

from torch import nn


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimizer groups: tensors of rank 2 and up with ``weight_decay``, the others without.

    The authors' code penalises kernels with lambda / 2 times the sum of squares, whose gradient is torch's
    ``weight_decay`` lambda, and leaves biases and batch norms alone.

    >>> [len(group["params"]) for group in weight_decay_groups(nn.Linear(2, 3), 5e-4)]
    [1, 1]
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
