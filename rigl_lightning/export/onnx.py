"""ONNX: the network with folded batch norms, its weights dense with their zeros, for other runtimes."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from rigl_lightning.base.errors import MissingPackageError, SettingError
from rigl_lightning.base.files import written_beside
from rigl_lightning.export.compacting import compact
from rigl_lightning.export.example import Dims, Example, batch_dimensions, example_of, with_samples


def export_onnx(
    module: nn.Module,
    path: str | Path,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any] | None = None,
    *,
    dynamic_batch: bool = True,
) -> None:
    """Write a trained module as ONNX; runtimes that know of sparsity (such as DeepSparse) find the zeros themselves.

    Args:
        module: Any module that torch can export; it is not changed.
        path: The file; one that was there is replaced when the new one is whole.
        example_inputs: As for `compact`.
        dynamic_batch: Leave the number of samples open, along whichever dimension of each input they lie: it is found
            by calling the module (see `batch_dimensions`). False keeps the shapes of the example.

    Raises:
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If there is no example, or no dimension of it holds samples that do not see each other.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(
                f"Expected the package {package}, found none. Install it with `pip install 'rigl-lightning[onnx]'`."
            )
    example = example_of(module, example_inputs)
    if example is None:
        raise SettingError("Expected an example to trace the module with, got none. Give `example_inputs`.")
    dense, example = compact(module, example, compute="dense"), example.map(Tensor.cpu)
    shapes = None
    if dynamic_batch:
        dims = batch_dimensions(dense, example)
        if dims is None:
            raise SettingError(
                "Expected inputs with a dimension along which samples do not see each other, found none. Set "
                "dynamic_batch=False for the shapes of the example."
            )
        example = with_samples(example, dims, 2)  # a batch of one would be taken for a constant
        shapes = _open_shapes(dense, example, dims)
    with written_beside(path) as unfinished:
        torch.onnx.export(
            *(dense, example.args, str(unfinished)),
            kwargs=example.kwargs,
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


def _open_shapes(module: nn.Module, example: Example, dims: Dims) -> Any:
    """The open dimension of every tensor, by the names of the module's arguments, as torch.export wants it."""
    batch = torch.export.Dim("batch")
    leaves, spec = tree_flatten(tuple(example))
    given = iter(dims)
    found = [next(given) if isinstance(x, Tensor) else None for x in leaves]
    args, kwargs = tree_unflatten([None if dim is None else {dim: batch} for dim in found], spec)
    return inspect.signature(module.forward).bind(*args, **kwargs).arguments
