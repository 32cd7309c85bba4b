"""Compilation of jobs, and where their machine code is kept between processes.

A job is compiled when it is first needed, half a second to three seconds, and kept in the user's private folder. Where
there is none, the disk is full or the file is damaged, it is compiled again: that is said once, and all else goes on.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import warnings
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import njit, types
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from rigl_lightning.kernels.compiled.ir import load_i64, next_task, settings_reader
from rigl_lightning.kernels.private_folder import VARIABLE, private_folder, read_private, write_private

_DIGEST = 32
"""Bytes of a checksum."""


class Job:
    """A C function of one int64, the address of an array of int64: the slots of `settings.packed`.

    Every thread that calls it takes tasks until none is left, so one thread and many run the same code.

    Args:
        body: One task, a function that numba compiles, of its number, the number of tasks, and the settings.
        settings: Named tuple of the settings.
    """

    def __init__(self, body: Callable[[int, int, Any], None], settings: type) -> None:
        self.body, self.settings = body, settings

    @property
    def address(self) -> int:
        """Of the C function."""
        return self._compiled.address

    @cached_property
    def ctypes(self) -> Any:
        """The C function."""
        return self._compiled.ctypes

    @cached_property
    def _compiled(self) -> Any:
        one, read = njit(nogil=True)(self.body), settings_reader(self.settings)

        def run(a):  # type: ignore[no-untyped-def]  # numba has no types
            settings = read(a)
            n_tasks = load_i64(a, 0)
            while True:
                task = next_task(a + 8)
                if task >= n_tasks:
                    return
                one(task, n_tasks, settings)

        function: Any = CFunc(run, ((types.int64,), types.void), {}, {})
        function._cache = _Kept(self.body.__name__)
        function.compile()
        return function


def job(settings: type) -> Callable[[Callable[[int, int, Any], None]], Job]:
    """Decorator that makes a `Job` of one task's function."""
    return lambda body: Job(body, settings)


class _Kept:
    """What numba asks for machine code, and gives it to; here a job has one signature."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, _: Any, context: Any) -> Any:
        """The compiled job, or None."""
        context.refresh()
        try:
            content = read_private(self._path(context.codegen()))
            digest, payload = content[:_DIGEST], content[_DIGEST:]
            if hashlib.sha256(payload).digest() == digest:
                return CompileResult._rebuild(context, *pickle.loads(payload))
        except FileNotFoundError:
            pass
        except Exception as error:  # whatever is wrong with a file, the source is here
            _say_once(error)
        return None

    def save_overload(self, _: Any, compiled: Any) -> None:
        """Keep a compiled job."""
        try:
            payload = dumps(compiled._reduce())
            write_private(self._path(compiled.codegen), hashlib.sha256(payload).digest() + payload)
        except Exception as error:
            _say_once(error)

    def _path(self, codegen: Any) -> Path:
        key = repr((_sources(), numba.__version__, llvmlite.__version__, sys.version, codegen.magic_tuple()))
        return private_folder() / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.job"


@cache
def _sources() -> str:
    """Checksum of all that jobs are made of; FileNotFoundError where there are no source files (in a zip)."""
    folder = Path(__file__).parent.parent
    files = [folder / "settings.py", *sorted(folder.glob("compiled/*.py")), *sorted(folder.glob("inference/*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_said: list[str] = []


def _say_once(error: Exception) -> None:
    if not _said:
        _said.append(str(error))
        reason = str(error) or type(error).__name__
        warnings.warn(
            f"Compiled kernels are not kept between processes: {reason}. Each process compiles what it uses, a second "
            f"for each kind of product. Set {VARIABLE} to a folder that only you can write to.",
            stacklevel=2,
        )
