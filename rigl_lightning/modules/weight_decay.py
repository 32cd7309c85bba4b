"""Which parameters the L2 penalty acts on."""

from __future__ import annotations

from typing import Any

from torch import nn


def weight_decay_groups(model: nn.Module, weight_decay: float, depthwise: bool = True) -> list[dict[str, Any]]:
    """Two optimizer groups: tensors of rank 2 and up with ``weight_decay``, the others without.

    The authors' code penalises kernels with lambda / 2 times the sum of squares, whose gradient is torch's
    ``weight_decay`` lambda, and leaves biases and batch norms alone; in MobileNets also the depthwise kernels
    (rigl/imagenet_resnet/mobilenetv1_model.py:81-92, commit d39fc7d).

    Args:
        model: Its trainable parameters are grouped.
        weight_decay: Coefficient of the first group.
        depthwise: Whether kernels of depthwise convolutions are in the first group too.

    >>> [len(group["params"]) for group in weight_decay_groups(nn.Linear(2, 3), 5e-4)]
    [1, 1]
    >>> [len(g["params"]) for g in weight_decay_groups(nn.Conv2d(4, 4, 3, groups=4), 5e-4, depthwise=False)]
    [0, 2]
    """
    spared = set() if depthwise else {id(module.weight) for module in model.modules() if _is_depthwise(module)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    penalised = [p for p in parameters if p.ndim >= 2 and id(p) not in spared]
    chosen = {id(p) for p in penalised}
    return [
        {"params": penalised, "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in chosen], "weight_decay": 0.0},
    ]


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
