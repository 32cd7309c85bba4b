"""Files of a network in training that hold its active connections only: no dense weight is made on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import replacing, size
from rigl_lightning.base.loading import load_plain
from rigl_lightning.compute.sparse_compute import SparseCompute

_FORMAT = "rigl_lightning.connections.1"
_REMEDY = "Give a file of `save_sparse`."


def save_sparse(compute: SparseCompute, path: str | Path, optimizer: Optimizer | None = None) -> int:
    """Write a network whose weights are stored as connections, and what a training needs to go on exactly.

    A value, and a number for each of the optimizer's state tensors, a connection; three bits a dense weight for the
    masks of now, of the beginning, and what was ever active. ``module.state_dict()`` makes all dense weights at once.

    Args:
        compute: From `build_sparse`, or a `SparseCompute` that is installed.
        path: The file, in a folder that exists, or an address of fsspec. One that was there is replaced when the new
            one is whole.
        optimizer: Of the network; None to leave out its state, as for a file that is only read to predict.

    Returns:
        The size of the file in bytes.

    Raises:
        OSError: If the disk is full.
    """
    with compute.bare():
        content = {
            "format": _FORMAT,
            "sparsifier": compute.sparsifier.state_dict(),
            "compact": sorted(compute.sparsifier.compact),
            "module": compute.module.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
        }
        with replacing(path) as stream:
            torch.save(content, stream)
    return size(path)


def load_sparse(compute: SparseCompute, path: str | Path, optimizer: Optimizer | None = None) -> None:
    """Take up a network, its masks and its optimizer from a file of `save_sparse`.

    Args:
        compute: Of the same network and algorithm: made anew by `build_sparse`, or in the middle of a training. Where
            it is not installed, or stores dense weights, those of the file become dense there.
        path: The file.
        optimizer: Of this network; None to leave the file's aside.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file, of another network or algorithm, or has no state for ``optimizer``.
    """
    content = load_plain(path, "a file of connections", _REMEDY)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise SettingError(f"Expected a file of connections at {path}, got other content. {_REMEDY}")
    if optimizer is not None and content["optimizer"] is None:
        raise SettingError(
            f"Expected the state of an optimizer in {path}, found none. Give `optimizer` to `save_sparse`, or none to "
            "`load_sparse`."
        )
    sparsifier = compute.sparsifier
    sparsifier.load_state_dict(content["sparsifier"])
    _store_as(compute, set(content["compact"]))
    with compute.bare():
        _load(compute.module, content["module"], path)
        if optimizer is not None:
            optimizer.load_state_dict(content["optimizer"])
            sparsifier.compact.follow(optimizer)
    for layer in compute.layers:
        if not compute.stores(layer):
            layer.storage.expand()
    sparsifier.apply_masks()


def _store_as(compute: SparseCompute, compact: set[str]) -> None:
    """Have the weights of the file as connections, and all others densely."""
    sparsifier = compute.sparsifier
    for name in sorted(compact ^ set(sparsifier.compact)):
        if name in compact:
            sparsifier.weights.store_compactly(name)
        else:
            sparsifier.weights.store_densely(name)


def _load(module: torch.nn.Module, state: dict[str, Any], path: str | Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise SettingError(f"Expected the tensors of this network in {path}, got others: {error} {_REMEDY}") from error
