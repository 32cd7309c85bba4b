"""Running a compiled job on as many threads as torch uses, in torch's own OpenMP pool."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol

import torch

from rigl_lightning.kernels.settings import packed


class Job(Protocol):
    """A compiled C function of one int64, the address of its slots (see `settings.packed`)."""

    @property
    def address(self) -> int:
        """Of the function."""

    @property
    def ctypes(self) -> Any:
        """The function."""


def run(job: Job, n_tasks: int, settings: Any) -> None:
    """Run a job to its end on at most `torch.get_num_threads` threads.

    Args:
        job: Takes tasks until none is left (see `compiled.cache`).
        n_tasks: How many there are; nothing runs if 0.
        settings: The job's own named tuple.
    """
    slots = packed(n_tasks, settings)
    run_slots(job, slots.buffer_info()[0], min(torch.get_num_threads(), n_tasks))


def run_slots(job: Job, address: int, threads: int) -> None:
    """Run a job, whose slots are at ``address``, on so many threads; nothing runs on 0."""
    if threads == 1:
        job.ctypes(address)
    elif threads > 1:
        parallel = _openmp()
        if parallel is not None:
            parallel(job.address, address, threads, 0)
            return
        with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter lock
            list(pool.map(job.ctypes, [address] * threads))


@cache
def _openmp() -> Any:
    """``GOMP_parallel`` of the OpenMP library that torch has loaded, or None (macOS, Windows)."""
    # A pool of another library, such as numba's, would fight torch's for the cores, or change its thread count.
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, TypeError, OSError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel
