"""Invariants: what is always true of a sparse network, checked."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.optimizer_state import starts_from_a_number, state_tensors
from rigl_lightning.sparsity.sparsifier import Sparsifier


def violations(sparsifier: Sparsifier, optimizer: Optimizer | None = None) -> list[str]:
    """What is broken after a step, a sentence for each layer and promise; empty if all is well.

    Args:
        sparsifier: Between two steps.
        optimizer: Its state is checked too, if given.
    """
    return [sentence for name in sparsifier.masks for sentence in _of_layer(sparsifier, optimizer, name)]


@torch.no_grad()
def _of_layer(sparsifier: Sparsifier, optimizer: Optimizer | None, name: str) -> Iterator[str]:
    mask, parameter = sparsifier.masks[name], sparsifier.parameters[name]
    if name in sparsifier.compact:
        yield from _of_compact_layer(sparsifier, optimizer, name)
        return
    if mask.shape != parameter.shape:
        yield f"{name}: the mask has shape {tuple(mask.shape)}, the weight {tuple(parameter.shape)}"
        return
    if count_active(mask) != sparsifier.n_active[name]:
        yield f"{name}: {count_active(mask)} connections are active, {sparsifier.n_active[name]} were counted"
    if n_leaks := _nonzero_outside(parameter, mask):
        yield f"{name}: {n_leaks} inactive weights are not zero"
    if count_active(mask & ~sparsifier.explored[name]):
        yield f"{name}: active connections are missing among the explored"
    if optimizer is None or sparsifier.algorithm.hides_inactive_weights:
        return
    for key, value in state_tensors(optimizer, parameter):
        if not starts_from_a_number(optimizer, key) and (n_leaks := _nonzero_outside(value, mask)):
            yield f"{name}: the optimizer's {key!r} is not zero at {n_leaks} inactive connections"


def _of_compact_layer(sparsifier: Sparsifier, optimizer: Optimizer | None, name: str) -> Iterator[str]:
    weight, n_active = sparsifier.compact[name], sparsifier.n_active[name]
    if weight.parameter.shape != (n_active,) or weight.n_active != n_active:
        shape = tuple(weight.parameter.shape)
        yield f"{name}: values of shape {shape}, {weight.n_active} positions, {n_active} were counted"
    if count_active(sparsifier.masks[name] & ~sparsifier.explored[name]):
        yield f"{name}: active connections are missing among the explored"
    # State that is dense yet follows at the next step: of a weight that became compact after the last one.
    shapes = (n_active,), weight.shape
    for key, value in ({} if optimizer is None else optimizer.state.get(weight.parameter, {})).items():
        if isinstance(value, Tensor) and value.ndim and value.shape not in shapes:
            yield f"{name}: the optimizer's {key!r} has shape {tuple(value.shape)}, not one entry a connection"


def _nonzero_outside(tensor: Tensor, mask: Tensor) -> int:
    return count_active((tensor != 0) & ~mask.to(tensor.device))
