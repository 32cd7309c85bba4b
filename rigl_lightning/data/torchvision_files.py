"""Data sets that torchvision reads, with an error that says what to set when the files are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets import VisionDataset


def open_dataset(
    dataset: type[VisionDataset], name: str, root: str | Path, folder: str, train: bool, download: bool
) -> Any:
    """Read one split of a torchvision data set.

    Args:
        dataset: Class of torchvision, such as ``CIFAR10``.
        name: Its name in messages.
        root: Folder that holds ``folder``.
        folder: Folder that the files are in, relative to ``root``.
        train: Whether to read the training split, else the test split.
        download: Whether torchvision may fetch what is missing.

    Raises:
        FileNotFoundError: If the folder is missing and may not be downloaded.
        ValueError: If it is there but files are missing or damaged.
    """
    if not download and not (Path(root) / folder).is_dir():
        raise FileNotFoundError(
            f"{name} not found under {root}. Set `root` of the data module to the folder that holds {folder}, "
            "or `download` of the data module to True."
        )
    try:
        return dataset(root, train=train, download=download)
    except RuntimeError as error:
        raise ValueError(
            f"{name} under {root} is incomplete or damaged: {error} Unpack it again into "
            f"{Path(root) / folder}, or set `root` of the data module to a whole copy."
        ) from error
