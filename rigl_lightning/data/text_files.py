"""Text in a folder as three arrays of bytes: train, valid and test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SUFFIXES = frozenset({".txt", ".raw", ".tokens", ""})
SPLIT_WORDS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
SPLITS = ("train", "valid", "test")


def read_splits(root: str | Path) -> dict[str, Bytes]:
    """Bytes of each split of the text below ``root``.

    If a file has the word "train" in its name, as in ``wiki.train.raw`` or ``ptb.train.txt``, names decide:
    "train", "valid" or "val", "test"; other files are left out. Else all files are joined in sorted order
    and cut 90 : 5 : 5.

    Args:
        root: Folder that is searched, its sub-folders included.

    Returns:
        Arrays of bytes under "train", "valid" and "test".

    Raises:
        FileNotFoundError: If the folder, or text in it, is missing.
        ValueError: If files are named by split but one split is missing.
    """
    files = text_files(root)
    named = {split: [path for path in files if _split_of(path) == split] for split in SPLITS}
    if not named["train"]:
        return cut(_joined(files))
    for split, members in named.items():
        if not members:
            raise ValueError(
                f"Expected files named by split (train, valid, test) under {root}, found none for {split}. "
                f"Add one, or set `root` of the data module to a folder without split names to have it cut."
            )
    return {split: _joined(members) for split, members in named.items()}


def text_files(root: str | Path) -> list[Path]:
    """Files below ``root`` that look like text, sorted: .txt, .raw, .tokens or no suffix, none hidden.

    Raises:
        FileNotFoundError: If the folder is missing or has no such file.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Text folder {root} not found. Set `root` of the data module to a folder of text files, or to None "
            "for the text built into Python."
        )
    files = [path for path in sorted(folder.rglob("*")) if _is_text(path, folder)]
    if not files:
        raise FileNotFoundError(
            f"No text file (.txt, .raw, .tokens or no suffix) under {root}. Set `root` of the data module to a "
            "folder of text files, or to None for the text built into Python."
        )
    return files


def cut(text: Bytes) -> dict[str, Bytes]:
    """The first 90 % to train, the next 5 % as valid, the last 5 % as test.

    >>> {split: len(part) for split, part in cut(np.zeros(100, dtype=np.uint8)).items()}
    {'train': 90, 'valid': 5, 'test': 5}
    """
    train_end, valid_end = len(text) * 90 // 100, len(text) * 95 // 100
    return {"train": text[:train_end], "valid": text[train_end:valid_end], "test": text[valid_end:]}


def _is_text(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix not in SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0" not in file.read(1024)


def _split_of(path: Path) -> str | None:
    """Split whose word is in the file's name: whole words, so that "latest" is not a test."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def _joined(files: Sequence[Path]) -> Bytes:
    return np.concatenate([np.fromfile(path, dtype=np.uint8) for path in files])
