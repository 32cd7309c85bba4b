"""Sizes: how many bytes a sparse network takes when it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rigl_lightning.base.errors import SettingError


def weight_bytes(numel: int, sparsity: float, bits: int = 32) -> float:
    """Bytes of one weight: the values of its active connections, and a mask of one bit a connection if it is sparse.

    A fraction of a byte is kept, as by the authors (google-research, micronet_challenge/counting.py,
    ``get_sparse_size``).

    Args:
        numel: Connections in the layer.
        sparsity: Fraction of inactive connections, in [0, 1].
        bits: Bits a value takes.

    >>> weight_bytes(800, 0.0), weight_bytes(800, 0.75)
    (3200.0, 900.0)
    """
    mask_bits = numel if sparsity > 0 else 0
    return (numel * (1 - sparsity) * bits + mask_bits) / 8


def network_bytes(
    shapes: Mapping[str, Sequence[int]],
    sparsities: Mapping[str, float],
    n_biases: int | None = None,
    bits: int = 32,
) -> float:
    """Bytes of a network: its weights, and one dense bias for each of their outputs.

    Args:
        shapes: Shape of each weight by name, (out, in) or (out, in / groups, *kernel).
        sparsities: Sparsity of each sparse weight; a weight that is not named is dense.
        n_biases: Biases in all. By default one for each output of each weight, as by the authors, whether the layer has
            a bias or not: a batch norm folds into one.
        bits: Bits a value takes.

    Raises:
        ValueError: If a sparsity is given for a weight that has no shape.

    >>> round(network_bytes({"fc.weight": (10, 80)}, {"fc.weight": 0.9}))  # 320 + 100 for the weight, 40 for the biases
    460
    """
    unknown = sorted(set(sparsities) - set(shapes))
    if unknown:
        raise SettingError(f"Expected sparsities of the weights in `shapes`, got also {unknown}.")
    biases = sum(shape[0] for shape in shapes.values()) if n_biases is None else n_biases
    weights = sum(weight_bytes(math.prod(shape), sparsities.get(name, 0.0), bits) for name, shape in shapes.items())
    return weights + biases * bits / 8
