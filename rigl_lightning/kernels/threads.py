"""Running a compiled job on as many threads as torch uses, in torch's own OpenMP pool."""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from rigl_lightning.kernels.settings import FIRST, Late, addresses_of, fields_of, packed


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


class Step:
    """A job whose settings are packed once: at each run only its `Late` addresses are filled in.

    Args:
        job: A compiled job.
        n_tasks: How many tasks it has.
        settings: The job's own named tuple, which is kept alive.

    Attributes:
        job: The job.
        dtypes: By name of a `Late` address, the dtype of its tensor.
    """

    def __init__(self, job: Job, n_tasks: int, settings: Any) -> None:
        self.job, self._settings = job, settings
        self._slots = packed(n_tasks, settings)
        self._address = self._slots.buffer_info()[0]
        of: Any = type(settings)
        dtypes = list(fields_of(of).values())
        late = [(i, s) for i, s in enumerate(settings) if isinstance(s, Late)]
        self.dtypes = {s.of: dtypes[i] for i, s in late}
        self._late = [(i + FIRST, s.of, s.start * dtypes[i].itemsize) for i, s in late]
        self._threads = min(torch.get_num_threads(), n_tasks)

    def run(self, operands: Mapping[str, Tensor | None]) -> None:
        """Run to the end, with tensors for the `Late` addresses; several threads may do so at once."""
        self.run_at(addresses_of(operands, self.dtypes))

    def run_at(self, addresses: Mapping[str, int]) -> None:
        """As `run`, with their addresses; the caller keeps the tensors alive."""
        slots = self.copied_slots()
        self.fill(slots, addresses)
        run_slots(self.job, slots.buffer_info()[0], min(torch.get_num_threads(), slots[0]))

    def run_here(self, addresses: Mapping[str, int]) -> None:
        """As `run`, on as many threads as at first, not at once by several; the caller keeps the tensors alive."""
        self._slots[1] = 0
        self.fill(self._slots, addresses)
        run_slots(self.job, self._address, self._threads)

    def copied_slots(self) -> array[int]:
        """Slots of its own for somebody who runs the job; the settings are kept alive here."""
        return self._slots[:]

    def fill(self, slots: array[int], addresses: Mapping[str, int]) -> None:
        """Write the `Late` addresses into slots."""
        for i, of, start in self._late:
            address = addresses[of]
            slots[i] = address + start if address else 0


class Program:
    """Steps one after the other; each tensor is looked at once for all of them, and one thread runs all in one call.

    Args:
        steps: In their order.
    """

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self._dtypes = {name: dtype for step in steps for name, dtype in step.dtypes.items()}
        self._own = _Own()

    def run(self, operands: Mapping[str, Tensor | None]) -> None:
        """Run to the end, with tensors for the `Late` addresses; several threads may do so at once."""
        addresses = addresses_of(operands, self._dtypes)
        if torch.get_num_threads() > 1:
            for step in self._steps:
                step.run_at(addresses)
            return
        if self._own.chained is None:
            self._own.chained = _Chained(self._steps)
        self._own.chained.run(addresses)


class _Chained:
    """Steps with slots of their own, side by side, for one thread."""

    def __init__(self, steps: Sequence[Step]) -> None:
        from rigl_lightning.kernels.compiled.chain import Chain, chain_job

        self._job = chain_job
        self._steps = [(step, step.copied_slots()) for step in steps]
        jobs = [address for step, slots in self._steps for address in (step.job.address, slots.buffer_info()[0])]
        self._jobs = torch.tensor(jobs, dtype=torch.int64, device="cpu")
        self._slots = packed(len(steps), Chain(self._jobs))
        self._address = self._slots.buffer_info()[0]

    def run(self, addresses: Mapping[str, int]) -> None:
        for step, slots in self._steps:
            slots[1] = 0
            step.fill(slots, addresses)
        self._slots[1] = 0
        run_slots(self._job, self._address, 1)


class _Own(threading.local):
    """What each thread that runs a program has."""

    chained: _Chained | None = None


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
