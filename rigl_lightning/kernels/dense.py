"""What every tier does with torch's dense operators: layers it does not cover, and the true dense gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.kernels.pattern import SparsePattern


def masked_gradient(weight: Tensor, pattern: SparsePattern, dense_grad: bool) -> Tensor:
    """The weight itself, whose gradient is zero at inactive connections unless ``dense_grad``."""
    if dense_grad or not weight.requires_grad:
        return weight
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[pattern.positions.to(weight.device)] = True
    return torch.where(mask.view(weight.shape), weight, weight.detach())


def refuse_second_derivative() -> None:
    """Raise a RuntimeError in a backward pass that is itself recorded: the sparse products have no derivative there."""
    # torch's decorator for this costs as much as a small layer.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Expected first derivatives only (`create_graph=False`): a sparse layer cannot be differentiated twice."
        )
