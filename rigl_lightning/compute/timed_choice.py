"""Sparse or dense: what is faster for a layer, its batch and its density, measured once on the first real inputs."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_FLOPS = 1e6
"""Forward FLOPs of the dense layer below which it is not timed: its products are not what its time goes into."""
LARGEST_DENSITY = 0.5
"""Density above which a layer is not timed: no kernel here breaks even before."""
_MARGIN = 1.05
"""Sparse has to be this many times as fast to be taken: less is noise, in either direction."""
_ROUNDS = (3, 9)
"""At least and at most so many: more than the least only until `_ENOUGH_SECONDS` have passed."""
_ENOUGH_SECONDS = 0.1
_REDECIDE = 1.25
SAMPLED = 3
"""Of layers that are alike so many are timed, for all."""


class Choice(NamedTuple):
    """How a layer is computed, and why.

    Attributes:
        is_sparse: By the sparse kernels.
        reason: Why not, or "".
        density: Fraction of the layer's connections that was active when it was decided.
        dense_seconds: Time of forward and backward pass when dense, or None if it was not timed.
        sparse_seconds: The same by the sparse kernels.
    """

    is_sparse: bool
    reason: str
    density: float
    dense_seconds: float | None = None
    sparse_seconds: float | None = None

    def holds_at(self, density: float) -> bool:
        """Whether the layer is still about as dense as when it was decided."""
        return self.density / _REDECIDE <= density <= self.density * _REDECIDE

    @property
    def speedup(self) -> float | None:
        """Dense time over sparse time, if they were measured."""
        if self.dense_seconds is None or not self.sparse_seconds:
            return None
        return self.dense_seconds / self.sparse_seconds


def seconds_together(choices: Iterable[Choice | None]) -> tuple[float, float]:
    """Seconds of the layers that were timed: all dense, and each as it was chosen."""
    timed = [choice for choice in choices if choice is not None and choice.speedup is not None]
    dense = sum(choice.dense_seconds or 0.0 for choice in timed)
    chosen = sum((choice.sparse_seconds if choice.is_sparse else choice.dense_seconds) or 0.0 for choice in timed)
    return dense, chosen


def clock() -> float:
    """Seconds, from any beginning: what this thread works, where it works alone, else the time of day.

    Other processes, and waiting for data, then do not count.
    """
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def decide_without_timing(density: float, flops: float) -> Choice | None:
    """The choice where it is clear: (almost) dense weights, and products that cost nothing. None elsewhere."""
    if density > LARGEST_DENSITY:
        return Choice(False, f"density {density:.2f}", density)
    if flops < LEAST_FLOPS:
        return Choice(False, "too small to gain", density)
    return None


def decide(
    dense: Callable[..., Any],
    sparse: Callable[..., Any],
    x: Tensor,
    tensors: Sequence[Tensor | None],
    density: float,
    extra_seconds: float = 0.0,
    sparse_tensors: Sequence[Tensor | None] | None = None,
) -> Choice:
    """Time both implementations of a layer, forward and backward, in turns, and take the faster.

    Nothing of the user's is touched: inputs and weights are aliases without history, and neither hooks, gradients nor
    the random state see it.

    Args:
        dense: Function of ``(x, tensors)``; its first result is differentiated.
        sparse: The same by the kernels.
        x: A real input.
        tensors: The layer's parameters.
        density: Fraction of active connections.
        extra_seconds: What the sparse implementation costs a step besides, such as its share of building patterns.
        sparse_tensors: What ``sparse`` is given in the place of ``tensors``, where it stores them otherwise.
    """
    implementations = {"dense": dense, "sparse": sparse}
    given = {"dense": tensors, "sparse": tensors if sparse_tensors is None else sparse_tensors}
    times: dict[str, list[float]] = {name: [] for name in implementations}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that numba is missing is reported with the choice
        for name, layer in implementations.items():
            _seconds(layer, x, given[name])  # compiles, and takes memory from the system
        while not _is_enough(times):
            for name, layer in implementations.items():
                times[name].append(_seconds(layer, x, given[name]))
    dense_seconds, sparse_seconds = min(times["dense"]), min(times["sparse"]) + extra_seconds
    return _choice(dense_seconds, sparse_seconds, density)


def pooled(timed: Sequence[Choice], density: float) -> Choice:
    """One choice for layers that are alike, from the medians of their times.

    Args:
        timed: What `decide` found for some of them.
        density: Of the layer that asks.

    >>> pooled([Choice(True, "", 0.1, 1.2, 1.0), Choice(False, "dense is faster", 0.1, 1.2, 1.3)], 0.1).reason
    'within the margin'
    """
    dense = statistics.median(choice.dense_seconds or 0.0 for choice in timed)
    sparse = statistics.median(choice.sparse_seconds or 0.0 for choice in timed)
    return _choice(dense, sparse, density)


def _choice(dense_seconds: float, sparse_seconds: float, density: float) -> Choice:
    """The faster, if it is so by the margin."""
    is_sparse = sparse_seconds * _MARGIN < dense_seconds
    within = dense_seconds < sparse_seconds * _MARGIN and sparse_seconds < dense_seconds * _MARGIN
    reason = "" if is_sparse else "within the margin" if within else "dense is faster"
    return Choice(is_sparse, reason, density, dense_seconds, sparse_seconds)


def _is_enough(times: Mapping[str, Sequence[float]]) -> bool:
    rounds = len(times["dense"])
    return rounds >= _ROUNDS[1] or (rounds >= _ROUNDS[0] and sum(map(sum, times.values())) > _ENOUGH_SECONDS)


def _seconds(layer: Callable[..., Any], x: Tensor, tensors: Sequence[Tensor | None]) -> float:
    def keep(tensor: Tensor) -> Tensor:
        return tensor

    # Own saved-tensor hooks: those of a gradient checkpoint around us would count what is saved here.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, keep):
        own_x = x.detach().requires_grad_(x.requires_grad)
        own = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in tensors]
        start = clock()
        out = layer(own_x, own)
        out = out if isinstance(out, Tensor) else out[0]
        wanted = [t for t in (own_x, *own) if t is not None and t.requires_grad]
        if wanted:
            torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)
        return clock() - start
