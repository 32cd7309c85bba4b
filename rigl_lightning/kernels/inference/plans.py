"""Calls whose settings are written once: between two of them only the addresses of inputs and outputs change.

At batch 1 the Python around a product costs as much as the product.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rigl_lightning.kernels.settings import addresses_of
from rigl_lightning.kernels.threads import Step
from rigl_lightning.kernels.workspace import new

INPUT, OUTPUT, ADDEND = "input", "output", "addend"


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
        addresses = addresses_of({INPUT: x, OUTPUT: out, ADDEND: addend})
        for step in self._steps:
            step.run_here(addresses)
        return out
