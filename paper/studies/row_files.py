"""Rows of a study as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rigl_lightning.base.files import write_text


def write_rows(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows that have the same columns, and say where they are."""
    write_text(file, as_csv(table, table[0]))
    print(f"{len(table)} rows in {file}")


def as_csv(table: Iterable[Mapping[str, Any]], columns: Iterable[str], lineterminator: str = "\r\n") -> str:
    """Rows under their header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), lineterminator=lineterminator)
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
