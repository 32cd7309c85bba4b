"""Batch norms beside sparse convolutions, in training: a third of such a step, by a kernel that reads memory once."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.compute.installation import Forward, is_replaced, replace_forward
from rigl_lightning.compute.layers import watched
from rigl_lightning.kernels import batch_norm2d
from rigl_lightning.kernels.tiers import recorded


def replace_batch_norms(module: nn.Module, even_if_deterministic: bool = True) -> list[nn.BatchNorm2d]:
    """Let the batch norms of a module be computed by `batch_norm2d`, until `restore_forward`; returns them.

    Those are replaced that are `torch.nn.BatchNorm2d` with its own forward. In training they compute what torch's
    compute, to float32 rounding.

    Args:
        module: Any.
        even_if_deterministic: Also under `torch.use_deterministic_algorithms`.
    """
    found = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d) and _is_plain(child)]
    for norm in found:
        replace_forward(norm, partial(_forward, norm, even_if_deterministic))
    return found


def _is_plain(module: nn.BatchNorm2d) -> bool:
    return type(module).forward is nn.BatchNorm2d.forward and "forward" not in vars(module) and not is_replaced(module)


def _forward(norm: nn.BatchNorm2d, even_if_deterministic: bool, dense: Forward) -> Forward:
    def is_supported(input: Tensor) -> bool:
        # Frozen, of a cumulative mean or without statistics: torch's own, as are errors.
        is_plain = norm.training and norm.momentum is not None and norm.track_running_stats and input.ndim == 4
        is_allowed = even_if_deterministic or not torch.are_deterministic_algorithms_enabled()
        return is_plain and is_allowed and not recorded()

    def forward(input: Tensor) -> Any:
        if not is_supported(input):
            return dense(input)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        statistics = norm.running_mean, norm.running_var
        return watched(batch_norm, input, *statistics, norm.weight, norm.bias, True, norm.momentum, norm.eps)

    return forward


# Named as torch's function, and given the same operands, as in `layers`.
def batch_norm(input: Tensor, *args: Any) -> Tensor:
    """`batch_norm2d`."""
    mean, var, weight, bias, _, momentum, eps = args
    return batch_norm2d(input, mean, var, weight, bias, momentum, eps)
