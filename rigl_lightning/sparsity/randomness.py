"""Randomness of masks and growth: it depends on the seed, the layer and the moment, and on nothing else."""

from __future__ import annotations

import zlib

import torch


def layer_generator(seed: int, name: str, moment: str) -> torch.Generator:
    """CPU generator of one layer at one moment, the same on every process.

    Args:
        seed: Of all masks and growth.
        name: Of the layer.
        moment: "initial" for the first masks, the step for an update, and so on.

    >>> torch.rand(2, generator=layer_generator(0, "fc.weight", "initial"))
    tensor([0.7045, 0.3606])
    """
    # Not Python's hash: it differs between processes.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}/{moment}".encode()))
