"""Counts: how many connections of a layer are active, exactly."""

import math
from collections.abc import Mapping, Sequence

Shapes = Mapping[str, Sequence[int]]
"""Shape of each sparse layer by name."""

ROUNDING = 1e-6
"""A product of floats within this of a whole number is that number."""


def n_active(numel: int, sparsity: float) -> int:
    """Number of active connections of a layer: THE rounding rule.

    Zeros are rounded down, as in the reference (google-research/rigl d39fc7d, rigl/sparse_utils.py:35). A product
    within 1e-6 of a whole number is that number, so that 0.29 of 100 is 29 zeros in spite of floating point.

    Args:
        numel: Connections in the layer.
        sparsity: Fraction of inactive connections, in [0, 1].

    >>> n_active(10, 0.75), n_active(100, 0.29)
    (3, 71)
    """
    return numel - math.floor(sparsity * numel + ROUNDING)


def active_counts(
    shapes: Shapes, sparsities: Mapping[str, float], bounds: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, int]:
    """Active connections of each layer, with an exact total.

    The total follows `n_active`; the layers with the largest remainders get the connections that are left over, so a
    layer is within one connection of `n_active` of its own, which is what the reference takes. Each layer keeps at
    least one connection; where that needs more than rounding, it is taken from the others.

    Args:
        shapes: Shape of each sparse layer by name.
        sparsities: Sparsity of each layer, as from a `Distribution`.
        bounds: Fewest and most connections of each layer; None for one and all.

    >>> active_counts({"a": (5, 5), "b": (5, 5)}, {"a": 0.5, "b": 0.5})  # 12.5 + 12.5 = 25
    {'a': 13, 'b': 12}
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    inactive = sum(sparsities[name] * sizes[name] for name in sizes)
    bounds = bounds or {name: (1, size) for name, size in sizes.items()}
    fewest, most = (sum(bound[end] for bound in bounds.values()) for end in (0, 1))
    total = min(max(sum(sizes.values()) - math.floor(inactive + ROUNDING), fewest), most)
    return _round_to_total({n: (1 - sparsities[n]) * sizes[n] for n in sizes}, bounds, total)


def _round_to_total(counts: Mapping[str, float], bounds: Mapping[str, tuple[int, int]], total: int) -> dict[str, int]:
    """Whole counts within their bounds that add up to ``total``, largest remainders rounded up first."""
    whole = {n: min(max(math.floor(count + ROUNDING), bounds[n][0]), bounds[n][1]) for n, count in counts.items()}
    by_remainder = sorted(counts, key=lambda name: whole[name] - counts[name])
    while (missing := total - sum(whole.values())) != 0:
        change = 1 if missing > 0 else -1
        able = [n for n in by_remainder[::change] if bounds[n][0] <= whole[n] + change <= bounds[n][1]]
        for name in able[: abs(missing)]:
            whole[name] += change
    return whole
