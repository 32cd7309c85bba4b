"""Widths: how wide a network may be for a budget of parameters, bytes or FLOPs (Small-Dense and Big-Sparse)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from rigl_lightning.base.errors import SettingError


class Width(NamedTuple):
    """A width factor and what its network really measures, which rounded channels keep below the budget."""

    width: float
    achieved: float


def largest_width(
    measure: Callable[[float], float],
    budget: float,
    lowest: float = 0.05,
    highest: float = 8.0,
    decimals: int = 3,
) -> Width:
    """The largest width factor whose network stays within a budget.

    The paper's Small-Dense networks are as large as the sparse network they are compared with, and its Big-Sparse
    networks as large as the dense one (sections 4.1.1 and 4.1.2). Channels are whole numbers, so the measure is a
    staircase: bisection over widths of ``decimals`` decimals finds its last step within the budget.

    Args:
        measure: Width factor -> parameters, bytes or FLOPs of the network that is really built; never falling.
        budget: What it may measure, in the same unit.
        lowest: Smallest width to consider, above 0.
        highest: Largest width to consider.
        decimals: Decimals of the width, as published ones have two or three.

    Returns:
        The width, and what the network of this width measures.

    Raises:
        ValueError: If the lowest width is above the budget already, or the highest one still within it.

    >>> largest_width(lambda width: int(100 * width) ** 2, budget=2000)
    Width(width=0.449, achieved=1936)
    """
    scale = 10**decimals
    low, high = round(lowest * scale), round(highest * scale)
    at_low, at_high = measure(low / scale), measure(high / scale)
    if at_low > budget:
        raise SettingError(
            f"Expected a budget of at least {at_low:g}, which the network of width {low / scale:g} takes, "
            f"got {budget:g}. Raise `budget` or lower `lowest`."
        )
    if at_high <= budget:
        raise SettingError(
            f"Expected a budget below {at_high:g}, which the network of width {high / scale:g} takes, "
            f"got {budget:g}. Lower `budget` or raise `highest`."
        )
    while high - low > 1:
        middle = (low + high) // 2
        measured = measure(middle / scale)
        if measured > budget:
            high = middle
        else:
            low, at_low = middle, measured
    return Width(low / scale, at_low)


def of_network(build: Callable[[float], nn.Module], quantity: Callable[[nn.Module], float]) -> Callable[[float], float]:
    """A measure for `largest_width`: the network of a width is built without storage, then measured.

    Args:
        build: Width factor -> network.
        quantity: Network on the meta device -> parameters, bytes or FLOPs.

    >>> n_parameters = of_network(lambda width: nn.Linear(int(10 * width), 1, bias=False), count_parameters)
    >>> n_parameters(0.55)
    5
    """

    def measure(width: float) -> float:
        with torch.device("meta"):
            return quantity(build(width))

    return measure


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, biases and norms included; a shared tensor counts once."""
    return sum(parameter.numel() for parameter in module.parameters())
