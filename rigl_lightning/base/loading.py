"""Reading what torch saved: tensors and plain values, of any place, and one line if it is something else."""

from __future__ import annotations

import errno
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from rigl_lightning.base.errors import MissingFileError, SettingError
from rigl_lightning.base.files import is_file, open_file, size

_BEGINNINGS = (b"PK", b"\x80")
"""Of a zip archive, and of a pickle, which torch wrote before 1.6."""


def load_plain(path: str | Path, what: str, remedy: str) -> Any:
    """Content of a file of ``torch.save``, on the CPU; objects that could run code are not loaded.

    Args:
        path: On this machine or an address of fsspec.
        what: What is expected there, such as "a checkpoint".
        remedy: Last sentence of a message: what to set.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, no file of torch, or holds other objects than tensors and plain values.
    """
    if not is_file(path):
        raise MissingFileError(f"Expected {what} at {path}, found no such file. {remedy}")
    try:
        with open_file(path) as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip or torch: whatever foreign bytes make of them
        if is_of_the_disk(error):
            raise
        raise SettingError(
            f"Expected {what} at {path}, but the file {why_unreadable(path, error)}. {remedy}"
        ) from error


def is_of_the_disk(error: Exception) -> bool:
    """Whether a file could not be read, whatever is in it; torch seeks before the beginning of one that is cut off."""
    return isinstance(error, OSError) and error.errno != errno.EINVAL


def why_unreadable(path: str | Path, error: Exception) -> str:
    """What is wrong with a file that torch could not load, to follow "the file"."""
    with open_file(path) as stream:
        beginning = stream.read(2)
    if size(path) == 0:
        return "is empty (0 bytes)"
    if not beginning.startswith(_BEGINNINGS):
        return "was not written by torch"
    refused = re.search(r"Unsupported (?:global|class)\W*(?:GLOBAL )?([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        return f"holds objects such as {refused[1]}, which are not loaded because they could run code"
    return "is damaged, or was not written by torch"
