"""ONNX: the network with folded batch norms, its weights dense with their zeros, for other runtimes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.export.compacting import compact, example_of


def export_onnx(
    module: nn.Module,
    path: str | Path,
    example_inputs: Tensor | tuple[Any, ...] | None = None,
    *,
    dynamic_batch: bool = True,
) -> None:
    """Write a trained module as ONNX; runtimes that know of sparsity (such as DeepSparse) find the zeros themselves.

    Args:
        module: Any module that torch can export; it is not changed.
        path: The file.
        example_inputs: As for `compact`.
        dynamic_batch: Leave the first dimension of every input open.

    Raises:
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If there is no example.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"Expected the package {package}, found none. Install it with `pip install 'rigl-lightning[onnx]'`."
            )
    example = example_of(module, example_inputs)
    if example is None:
        raise ValueError("Expected an example to trace the module with, got none. Give `example_inputs`.")
    dense = compact(module, example, compute="dense")
    shapes = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        # A batch of one would be taken for a constant.
        example = tuple(torch.cat([x, x]) if isinstance(x, Tensor) and x.ndim and len(x) == 1 else x for x in example)
        shapes = tuple({0: batch} if isinstance(x, Tensor) and x.ndim else None for x in example)
    torch.onnx.export(dense, example, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
