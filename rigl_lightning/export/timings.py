"""Dense or sparse: both are timed on the inputs that a layer really gets, and the faster stays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rigl_lightning.export.example import Example, attributes_kept

_SHORTEST = 5e-3
"""Seconds that the timing of one layer takes at least, for each of the two."""
_ROUNDS = 5


@dataclass
class Timing:
    """Seconds of all calls of a layer in one run of the network.

    Attributes:
        dense: With the dense weight.
        sparse: With values and indices.
    """

    dense: float = 0.0
    sparse: float = 0.0


@torch.no_grad()
def timings(model: nn.Module, sparse: Mapping[nn.Module, nn.Module], example: Example) -> dict[nn.Module, Timing]:
    """Time layers and what would replace them, on the inputs they get from an example.

    Args:
        model: A network that holds the layers.
        sparse: What would replace each layer.
        example: What the network is called with.

    Returns:
        Timings of the layers that the example reaches.
    """
    found: dict[nn.Module, Timing] = {}

    def measure(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        timing = found.setdefault(layer, Timing())
        forward = type(layer).forward  # past the hook
        dense, other = _medians(
            lambda: forward(layer, *args, **kwargs), lambda: type(sparse[layer]).forward(sparse[layer], *args, **kwargs)
        )
        timing.dense += dense
        timing.sparse += other

    with _hooked(sparse, measure), attributes_kept(model):
        example.call(model)
    return found


def _medians(*actions: Callable[[], Any]) -> list[float]:
    """Median seconds of each action, in rounds of all of them."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    counts, times = [], []
    for action in actions:
        action()
        start = time.perf_counter()
        action()
        counts.append(max(1, round(_SHORTEST / _ROUNDS / max(time.perf_counter() - start, 1e-7))))
        times.append([0.0] * _ROUNDS)
    for i in range(_ROUNDS):
        for action, count, seconds in zip(actions, counts, times, strict=True):
            start = clock()
            for _ in range(count):
                action()
            seconds[i] = (clock() - start) / count
    return [statistics.median(seconds) for seconds in times]


@contextmanager
def _hooked(layers: Mapping[nn.Module, nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
