"""Scores: numbers that rank the connections of a layer. Low scores are dropped, high scores are grown.

A score is any function ``Connections -> Tensor`` of the weight's shape; a user's own function is named by its dotted
path. It must return the same on every process, so random numbers come from ``connections.generator`` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.channel_scores import channel_normalised_gradient as channel_normalised_gradient
from rigl_lightning.sparsity.channel_scores import live_channel_gradient as live_channel_gradient
from rigl_lightning.sparsity.connections import Connections as Connections
from rigl_lightning.sparsity.layouts import rows_are_units, rows_of
from rigl_lightning.sparsity.paths import local_paths

# It returns a Tensor; said so, the command line would refuse a user's function without a return annotation.
Score = Callable[[Connections], Any]


def weight_magnitude(c: Connections) -> Tensor:
    """``|w|``: the drop score of SET, SNFS, RigL and magnitude pruning (paper, section 3)."""
    return c.weight.abs()


def gradient_magnitude(c: Connections) -> Tensor:
    """``|dL/dw|`` of the dense gradient: the grow score of RigL (paper, section 3).

    The first public code of the authors took the signed gradient; the paper has the magnitude, as here.
    """
    return c.grad.abs()


def gradient_average_magnitude(c: Connections) -> Tensor:
    """``|m|`` of the averaged dense gradient: the grow score of SNFS (Dettmers & Zettlemoyer 2019, 1907.04840)."""
    return c.grad_average.abs()


def saliency(c: Connections) -> Tensor:
    """``|w · dL/dw|``: the score of SNIP (Lee et al. 2019, arXiv 1810.02340).

    It ranks connections with a weight. As a grow score it would be zero at every inactive connection.
    """
    return (c.weight * c.grad).abs()


def relative_importance(c: Connections) -> Tensor:
    """``|w| / sum over its unit + |w| / sum over its input`` (Zhang et al. 2024, "Plug-and-Play"; 2501.19107, eq. 1).

    A small weight has a high score if its unit or its input has few others. In a convolution an input is a kernel
    position of an input channel; groups are taken together, as their inputs share the columns of the weight.
    """
    size = rows_are_units(c.weight.abs(), c.inputs_first)
    rows = rows_of(size)
    tiny = torch.finfo(rows.dtype).tiny
    shares = rows / rows.sum(1, keepdim=True).clamp(min=tiny) + rows / rows.sum(0, keepdim=True).clamp(min=tiny)
    return rows_are_units(shares.view(size.shape), c.inputs_first)


def length_three_paths(c: Connections) -> Tensor:
    """CH2-L3n: the number and locality of short paths that join the two units already; see `paths`.

    The grow score of CHTs (Zhang et al. 2025, arXiv 2501.19107, eq. 3). It is zero where no such path leads.
    """
    mask = rows_are_units(c.mask, c.inputs_first)
    return rows_are_units(local_paths(rows_of(mask)).view(mask.shape), c.inputs_first)


def gradient_flow(c: Connections) -> Tensor:
    """``w · Hg``, H the loss's Hessian and g its gradient: the score of GraSP (Wang et al. 2020, arXiv 2002.07376).

    Removing a connection changes ``|g|^2 / 2`` by ``-w · Hg`` to first order, so the connections with the largest score
    preserve or increase the norm of the gradient. The algorithm must request it (`needs_hessian_gradient`).
    """
    if c.hessian_gradient is None:
        raise SettingError(
            "This score reads the product of Hessian and gradient, which the algorithm does not ask for at this step "
            "(see `needs_hessian_gradient`). Use GraSP."
        )
    return c.weight * c.hessian_gradient


def random(c: Connections) -> Tensor:
    """Uniform in [0, 1): the grow score of SET (Mocanu et al. 2018, arXiv 1707.04780)."""
    return torch.rand(c.weight.shape, generator=c.generator).to(c.weight.device)


def evaluate(score: Score, layer: Connections) -> Tensor:
    """Scores of a layer; a ValueError unless they are numbers of the weight's shape."""
    values = score(layer)
    if not isinstance(values, Tensor) or values.shape != layer.weight.shape or values.dtype == torch.bool:
        got = f"{tuple(values.shape)} of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        raise SettingError(
            f"Expected score {getattr(score, '__qualname__', score)!r} to return numbers of the weight's shape "
            f"{tuple(layer.weight.shape)}, got {got}. Set another score, or correct this one."
        )
    return values


_WITHOUT_GRADIENT = (weight_magnitude, gradient_average_magnitude, random, relative_importance, length_three_paths)


def needs_gradient(score: Score) -> bool:
    """Whether a score reads the dense gradient of its step. An unknown score is assumed to read it."""
    return score not in _WITHOUT_GRADIENT
