"""Calls whose settings are written once: between two of them only the addresses of inputs and outputs change.

At batch 1 the Python around a product costs as much as the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rigl_lightning.kernels.settings import FIRST, Late, address, packed
from rigl_lightning.kernels.threads import Job, run_slots
from rigl_lightning.kernels.workspace import new

INPUT, OUTPUT, ADDEND = "input", "output", "addend"


class Step:
    """One job with its settings.

    Args:
        job: Of `jobs` or `compiled.jobs`.
        n_tasks: How many tasks it has.
        settings: The job's own named tuple, which is kept alive; ``INPUT``, ``OUTPUT`` and ``ADDEND`` are `Late`.
    """

    def __init__(self, job: Job, n_tasks: int, settings: Any) -> None:
        self._job, self._settings = job, settings
        self._slots = packed(n_tasks, settings)
        self._late = [(i, s.of, 4 * s.start) for i, s in enumerate(settings, FIRST) if isinstance(s, Late)]
        self._address = self._slots.buffer_info()[0]
        self._threads = min(torch.get_num_threads(), n_tasks)

    def run(self, addresses: dict[str, int]) -> None:
        """Run to the end."""
        slots = self._slots
        slots[1] = 0
        for i, of, offset in self._late:
            slots[i] = addresses[of] + offset if addresses[of] else 0
        run_slots(self._job, self._address, self._threads)


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
        out = new(*self.shape)
        operands = {INPUT: x, OUTPUT: out, ADDEND: addend}
        addresses = {name: address(operand, torch.float32) for name, operand in operands.items()}
        for step in self._steps:
            step.run(addresses)
        return out
