"""Predictions of a network as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import check_place, replacing, write_text

_TABLE = ".csv"


def check_output(output: str, processes: int, checkpoint: str | Path | None = None) -> None:
    """Refuse a file that could not be written in the end, or should not.

    Raises:
        ValueError: If there are several processes, each of which predicts a part, or it is a folder or the checkpoint.
        FileNotFoundError: If there is no folder for it.
    """
    if processes > 1:
        raise SettingError(f"Expected one process for --output, got {processes}. Set --trainer.devices 1.")
    check_place(output, "Set --output.", checkpoint)


def save_predictions(batches: Sequence[Any], output: str, n_loaders: int = 1) -> str:
    """Write the predictions of all batches, joined to those of all samples.

    Args:
        batches: What ``predict_step`` returned, batch by batch; a list for each loader where there are several.
        output: A file: ``.csv`` for a row a sample, from tensors (N,) or (N, columns); any other for what torch.load
            reads: tensors (N, ...), in tuples or dicts if they came so, or the batches if they cannot be joined; a list
            of these where there are several loaders.
        n_loaders: Loaders of data.

    Returns:
        A line to print.

    Raises:
        ValueError: If ``.csv`` is asked for something else, which is written to ``.csv.pt`` instead.
    """
    joined = _joined(batches) if n_loaders == 1 else [_joined(own) for own in batches]
    is_table = Path(output).suffix == _TABLE
    if is_table and isinstance(joined, Tensor) and joined.ndim <= 2:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(joined.reshape(len(joined), -1).tolist())
        write_text(output, text.getvalue())
    else:
        place = f"{output}.pt" if is_table else output  # what took long is not thrown away
        with replacing(place) as stream:
            torch.save(joined, stream)
        if is_table:
            raise SettingError(
                f"Expected predictions (N,) or (N, columns) for {output}, got {_kind(joined)}, kept in {place}. Set "
                "--output to a .pt file."
            )
    return f"predictions: {_kind(joined)} in {output}"


def _joined(batches: Sequence[Any]) -> Any:
    """Batches one after the other, tensor by tensor; the list as it is if they are no such tensors."""
    leaves, specs = zip(*map(tree_flatten, batches), strict=True) if batches else ((), ())
    alike = len({str(spec) for spec in specs}) == 1
    if not alike or not all(isinstance(x, Tensor) and x.ndim for batch in leaves for x in batch):
        return list(batches)
    if any(len({tuple(x.shape[1:]) for x in column}) > 1 for column in zip(*leaves, strict=True)):
        return list(batches)
    return tree_unflatten([torch.cat(column).cpu() for column in zip(*leaves, strict=True)], specs[0])


def _kind(predictions: Any) -> str:
    if isinstance(predictions, Tensor):
        return f"{str(predictions.dtype).removeprefix('torch.')} {tuple(predictions.shape)}"
    return f"{type(predictions).__name__} of {len(predictions)}"
