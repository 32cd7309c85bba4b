"""Calls whose settings are written once: between two of them only the addresses of inputs and outputs change.

At batch 1 the Python around a product costs as much as the product.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rigl_lightning.kernels.threads import Job, _run_parallel

INPUT, OUTPUT, ADDEND = "input", "output", "addend"


class Place(NamedTuple):
    """An address that is known at the call: that of a tensor, and bytes further on.

    Attributes:
        of: ``INPUT``, ``OUTPUT`` or ``ADDEND``; the address is 0 if there is no addend.
        offset: In bytes.
    """

    of: str
    offset: int = 0


Setting = int | Tensor | Place | None


class Step:
    """One job with its settings.

    Args:
        job: See `compiled.jobs`.
        n_tasks: How many tasks it has.
        settings: Numbers, tensors that are kept alive and give their address, and places.
    """

    def __init__(self, job: Job, n_tasks: int, settings: Sequence[Setting]) -> None:
        self._kept = [s for s in settings if isinstance(s, Tensor)]
        numbers = [s.data_ptr() if isinstance(s, Tensor) else 0 if s is None else s for s in settings]
        self._places = [(i + 2, s.of, s.offset) for i, s in enumerate(numbers) if isinstance(s, Place)]
        self._settings = array("q", [n_tasks, 0, *(0 if isinstance(s, Place) else int(s) for s in numbers)])
        self._address = self._settings.buffer_info()[0]
        self._job, self._call = job, job.ctypes
        self._threads = min(torch.get_num_threads(), n_tasks)

    def run(self, addresses: dict[str, int]) -> None:
        """Run to the end."""
        settings = self._settings
        settings[1] = 0
        for i, of, offset in self._places:
            address = addresses[of]
            settings[i] = address + offset if address else 0
        if self._threads == 1:
            self._call(self._address)
        elif self._threads > 1:
            _run_parallel(self._job, self._address, self._threads)


class Plan:
    """Steps from an input of one shape to an output of one shape. Not for two threads at once.

    Args:
        shape: Of the output.
        steps: In their order.
    """

    def __init__(self, shape: tuple[int, ...], steps: Sequence[Step]) -> None:
        self.shape, self._steps = shape, tuple(steps)

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Output for contiguous float32 tensors on the CPU, of the shapes that the plan was made for."""
        out = torch.empty(self.shape, dtype=torch.float32)
        addresses = {
            INPUT: x.data_ptr(),
            OUTPUT: out.data_ptr(),
            ADDEND: addend.data_ptr() if addend is not None else 0,
        }
        for step in self._steps:
            step.run(addresses)
        return out
