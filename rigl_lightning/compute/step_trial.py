"""Whether whole steps are faster with the layers as chosen: a few of the first steps of a training, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from rigl_lightning.compute.timed_choice import Choice, clock, seconds_together
from rigl_lightning.sparsity.sparsifier import Sparsifier

CLEAR = 1.5
"""Whole steps are not timed if the layers together are so many times as fast: the rest of a step costs less."""
_WARM = 2
"""First steps that count for neither: layers are timed, kernels compiled, memory taken from the system."""
_EACH = 5
"""Steps of each kind."""


class WholeStep(NamedTuple):
    """Median seconds of a step.

    Attributes:
        dense: With all layers dense.
        chosen: With the layers as they were chosen.
    """

    dense: float
    chosen: float


class Layer(Protocol):
    """What the trial asks of a layer."""

    choice: Choice | None

    def set_dense(self, dense: bool) -> None:
        """Compute and store it densely, or as it was chosen."""


class StepTrial:
    """Times steps from their first call of a layer to that of the next step, dense and as chosen by turns.

    Steps of mask updates do not count. Where steps turn out to be faster dense, all layers are dense from then on.

    Args:
        sparsifier: Counts the steps.
        layers: All layers.

    Attributes:
        result: The times; None before they are known, or where the gain was clear without.
        is_over: Whether there is nothing more to try.
    """

    def __init__(self, sparsifier: Sparsifier, layers: Sequence[Layer]) -> None:
        self.result: WholeStep | None = None
        self.is_over = False
        self._sparsifier, self._layers = sparsifier, layers
        self._step, self._begun = -1, 0.0
        self._n_steps = 0
        self._timed: str | None = None
        self._times: dict[str, list[float]] = {"dense": [], "chosen": []}

    def begin_call(self) -> None:
        """Before each call of a layer while training."""
        step = self._sparsifier.step
        if step == self._step or not torch.is_grad_enabled():
            return
        if self._timed is not None and step == self._step + 1:
            self._times[self._timed].append(clock() - self._begun)
        self._step = step
        self._n_steps += 1
        self._begin_step()
        self._begun = clock()

    def _begin_step(self) -> None:
        if self._n_steps <= _WARM:
            return
        if self._n_steps == _WARM + 1 and not _is_close([layer.choice for layer in self._layers]):
            self.is_over = True
            return
        if self._sparsifier.algorithm.is_update(self._step):
            self._timed = None
            return
        counts = {kind: len(times) for kind, times in self._times.items()}
        if min(counts.values()) < _EACH:
            self._timed = min(counts, key=lambda kind: counts[kind])
            self._set_dense(self._timed == "dense")
        else:
            self._decide()

    def _decide(self) -> None:
        self.result = WholeStep(*(statistics.median(self._times[kind]) for kind in ("dense", "chosen")))
        self._set_dense(False)
        self.is_over = True
        if self.result.chosen <= self.result.dense:
            return
        for layer in self._layers:
            if layer.choice is not None and layer.choice.is_sparse:
                layer.set_dense(True)
                layer.choice = layer.choice._replace(is_sparse=False, reason="whole steps are faster dense")
                layer.set_dense(False)

    def _set_dense(self, dense: bool) -> None:
        for layer in self._layers:
            layer.set_dense(dense)


def _is_close(choices: Sequence[Choice | None]) -> bool:
    """Whether layers gain, and so little that the rest of a step may take it back."""
    dense, chosen = seconds_together(choices)
    return any(choice is not None and choice.is_sparse for choice in choices) and dense < CLEAR * chosen
