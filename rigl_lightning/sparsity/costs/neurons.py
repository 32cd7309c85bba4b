"""Neurons: what an unstructured result is as a smaller dense-shaped network, its inputs and neurons counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from rigl_lightning.base.errors import SettingError


def used_units(masks: Sequence[Tensor]) -> list[Tensor]:
    """Which inputs and neurons of a chain of fully connected layers take part in its outputs.

    A neuron takes part if a connection reaches it from a unit that does, and one leaves it to a unit that does; an
    input needs only the latter, and all outputs count. A neuron that nothing reaches is a constant and goes into the
    biases behind it, one that leads nowhere can be cut off (paper, version 3, appendix B).

    Args:
        masks: Of the layers in order, each (out, in), ``in`` as many as ``out`` of the layer before.

    Returns:
        For the inputs and for the outputs of each layer, boolean, one entry a unit.

    Raises:
        ValueError: If the layers are no chain.

    >>> import torch
    >>> first = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0]]).bool()  # nothing reaches the third neuron
    >>> second = torch.tensor([[0, 1, 1]]).bool()  # nothing leaves the first
    >>> [used.int().tolist() for used in used_units([first, second])]
    [[1, 1, 0], [0, 1, 0], [1]]
    """
    if not is_chain(masks):
        raise SettingError(
            f"Expected masks of fully connected layers in a chain, got shapes {[tuple(mask.shape) for mask in masks]}. "
            "Give those of one network, in order."
        )
    reached = [masks[0].new_ones(masks[0].shape[1])]
    for mask in masks:
        reached.append((mask & reached[-1]).any(dim=1))
    used = [masks[-1].new_ones(masks[-1].shape[0])]
    for mask, before in zip(reversed(masks), reversed(reached[:-1]), strict=True):
        used.append((mask & used[-1].unsqueeze(1)).any(dim=0) & before)
    return used[::-1]


def compact_masks(masks: Sequence[Tensor]) -> list[Tensor]:
    """The masks of the network that is left when unused inputs and neurons are cut out; same chain, smaller shapes.

    >>> import torch
    >>> compact_masks([torch.tensor([[True, False]]), torch.tensor([[True]])])
    [tensor([[True]]), tensor([[True]])]
    """
    used = used_units(masks)
    return [mask[after][:, before] for mask, before, after in zip(masks, used, used[1:], strict=False)]


def is_chain(masks: Sequence[Tensor]) -> bool:
    """Whether these are two or more matrices, each with as many columns as the one before has rows."""
    shapes = [tuple(mask.shape) for mask in masks]
    matrices = len(shapes) > 1 and all(len(shape) == 2 for shape in shapes)
    return matrices and all(before[0] == after[1] for before, after in pairwise(shapes))
