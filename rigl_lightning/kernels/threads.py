"""Running a compiled job on as many threads as torch uses, in torch's own OpenMP pool."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol

import torch


class Job(Protocol):
    """A compiled C function of one int64, the address of its settings."""

    address: int
    ctypes: Any


def run(job: Job, n_tasks: int, settings: Sequence[int]) -> None:
    """Run a job to its end on at most `torch.get_num_threads` threads.

    Args:
        job: Takes tasks until none is left (see `compiled.jobs`).
        n_tasks: How many there are; nothing runs if 0.
        settings: What follows the two counters of tasks.
    """
    packed = array("q", (n_tasks, 0, *settings))
    address, _ = packed.buffer_info()
    threads = min(torch.get_num_threads(), n_tasks)
    if threads == 1:
        job.ctypes(address)
    elif threads > 1:
        _run_parallel(job, address, threads)


def _run_parallel(job: Job, address: int, threads: int) -> None:
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
