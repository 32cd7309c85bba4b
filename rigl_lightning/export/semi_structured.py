"""2:4 sparsity for the sparse tensor cores of NVIDIA GPUs (Ampere and newer), by torch's semi-structured tensors.

The checks run anywhere. On an H200 a forward pass was faster than the dense one at 8192 x 8192 only, of four sizes:
``docs/gpu.md`` has the numbers.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.export.called_layers import call_layers, called_layers
from rigl_lightning.export.graph import is_plain

_DTYPES = (torch.float16, torch.bfloat16, torch.int8)
_CAPABILITY = (8, 0)
_MULTIPLES = {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (32, 128)}
"""Rows and columns of a weight must be multiples of these, in torch's CUTLASS and cuSPARSELt backends together."""


def is_two_of_four(weight: Tensor) -> bool:
    """Whether at most two of every four neighbouring connections of a row are other than zero.

    >>> is_two_of_four(torch.tensor([[1.0, 0.0, 2.0, 0.0]])), is_two_of_four(torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
    (True, False)
    """
    if weight.ndim != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight != 0).view(weight.shape[0], -1, 4).sum(2) <= 2).all())


def to_semi_structured(module: nn.Module) -> nn.Module:
    """A copy of a trained module whose Linear weights are 2:4 tensors for a GPU's sparse tensor cores.

    Args:
        module: On such a GPU, in half precision, trained with the structure ``NM(2, 4)``. Layers that are dense or
            other than Linear stay as they are, and so do those inside attention or an encoder with nested tensors.

    Raises:
        ValueError: If no Linear layer is 2:4, or a layer's device, dtype or shape does not suit the GPU.
    """
    copy = deepcopy(module).eval().requires_grad_(False)
    called = {id(layer) for layer in called_layers(copy)}
    linear = {name: m for name, m in copy.named_modules() if id(m) in called and is_plain(m, nn.Linear)}
    found = {name: layer for name, layer in linear.items() if is_two_of_four(layer.weight)}
    if not found:
        raise SettingError(
            "Expected Linear layers with at most two of every four connections active, found none. Train with "
            "`structure` of the algorithm NM(2, 4)."
        )
    for name, layer in found.items():
        assert isinstance(layer.weight, Tensor)
        _check(name, layer.weight)
    from torch.sparse import to_sparse_semi_structured

    for layer in found.values():
        assert isinstance(layer.weight, Tensor)
        layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight), requires_grad=False)
    return call_layers(copy, found.values())


def _check(name: str, weight: Tensor) -> None:
    if weight.dtype not in _DTYPES:
        raise SettingError(f"Expected {name!r} in half precision, got {weight.dtype}. Use `module.half()` before.")
    rows, columns = _MULTIPLES[weight.dtype]
    if weight.shape[0] % rows or weight.shape[1] % columns:
        raise SettingError(
            f"Expected {name!r} with outputs a multiple of {rows} and inputs a multiple of {columns}, got "
            f"{tuple(weight.shape)}. Use layers of such widths."
        )
    if weight.device.type != "cuda":
        raise SettingError(
            f"Expected {name!r} on a GPU, got {weight.device}: only sparse tensor cores compute with 2:4 weights. Use "
            "`compact` on a CPU."
        )
    if torch.cuda.get_device_capability(weight.device) < _CAPABILITY:
        raise SettingError(
            f"Expected a GPU of compute capability {_CAPABILITY} or newer, got "
            f"{torch.cuda.get_device_capability(weight.device)}. Use a GPU of the Ampere generation or later."
        )
