"""Batch norms beside sparse convolutions, and their ReLUs: a third of such a step, by kernels that read memory once."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.compute.installation import Forward, is_replaced, replace_forward
from rigl_lightning.compute.layers import watched
from rigl_lightning.kernels import batch_norm2d
from rigl_lightning.kernels.batch_norm import rectified
from rigl_lightning.kernels.tiers import recorded

_TIMMS = "timm.layers.norm_act", "BatchNormAct2d.forward"
"""Where timm has the forward of its batch norm with an activation: that of torch, then its modules drop and act."""


def replace_batch_norms(module: nn.Module, even_if_deterministic: bool = True) -> list[nn.Module]:
    """Let the batch norms of a module be computed by `batch_norm2d`, and the ReLUs after them by `rectified`.

    Those are replaced, until `restore_forward`, that are `torch.nn.BatchNorm2d` with its own forward, or timm's
    ``BatchNormAct2d``. In training they compute what these compute, to float32 rounding.

    Args:
        module: Any.
        even_if_deterministic: Also under `torch.use_deterministic_algorithms`.

    Returns:
        The replaced modules.
    """
    known = [child for child in module.modules() if _is_known(child)]
    norms = [child for child in known if isinstance(child, nn.BatchNorm2d)]
    relus = [child for child in known if norms and isinstance(child, nn.ReLU)]
    for norm in norms:
        replace_forward(norm, partial(_norm_forward, norm, even_if_deterministic))
    for relu in relus:
        replace_forward(relu, partial(_relu_forward, relu))
    return [*norms, *relus]


def _is_known(module: nn.Module) -> bool:
    """Whether a module's forward is one that we know, and nobody has replaced it."""
    if not isinstance(module, nn.BatchNorm2d | nn.ReLU) or "forward" in vars(module) or is_replaced(module):
        return False
    return type(module).forward in (nn.BatchNorm2d.forward, nn.ReLU.forward) or _is_timms(module)


def _is_timms(module: nn.Module) -> bool:
    forward: Any = type(module).forward
    return (forward.__module__, forward.__qualname__) == _TIMMS


def _norm_forward(norm: nn.BatchNorm2d, even_if_deterministic: bool, dense: Forward) -> Forward:
    after = ("drop", "act") if _is_timms(norm) else ()

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
        out = watched(batch_norm, input, *statistics, norm.weight, norm.bias, True, norm.momentum, norm.eps)
        for name in after:
            out = getattr(norm, name)(out)
        return out

    return forward


def _relu_forward(module: nn.ReLU, dense: Forward) -> Forward:
    def forward(input: Tensor) -> Any:
        return dense(input) if recorded() else watched(relu, input, module.inplace)

    return forward


# Named as torch's function, and given the same operands, as in `layers`.
def batch_norm(input: Tensor, *args: Any) -> Tensor:
    """`batch_norm2d`."""
    mean, var, weight, bias, _, momentum, eps = args
    return batch_norm2d(input, mean, var, weight, bias, momentum, eps)


def relu(input: Tensor, inplace: bool) -> Tensor:
    """`rectified`."""
    return rectified(input, inplace)
