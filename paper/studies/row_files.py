"""Rows of a study as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_rows(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows that have the same columns, and say where they are."""
    with open(file, "w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, table[0])
        writer.writeheader()
        writer.writerows(table)
    print(f"{len(table)} rows in {file}")
