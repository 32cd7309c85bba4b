"""Compilation of jobs, cached on disk by numba.

The cache is `__pycache__` beside the source, or the user's cache folder where that cannot be written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, types

_HERE = Path(__file__).parent
_SOURCES = ("ir.py", "cells.py")


def _fingerprint() -> str:
    return hashlib.sha256(b"".join((_HERE / name).read_bytes() for name in _SOURCES)).hexdigest()[:12]


_FINGERPRINT = _fingerprint()


def job(function: Callable[[int], None]) -> Any:
    """Compile a function of one int64 to a C function."""
    # Numba sees changes of the function's own file only; another name keeps code built of other instructions apart.
    function.__qualname__ += f"_{_FINGERPRINT}"
    return cfunc(types.void(types.int64), cache=True)(function)
