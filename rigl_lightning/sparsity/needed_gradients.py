"""Which gradients of the sparse weights are read at a step: what its layers have to compute, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rigl_lightning.sparsity.sparsifier import Sparsifier


def gradient_masks(sparsifier: Sparsifier) -> Mapping[str, Tensor]:
    """Masks of the connections that learn: the active ones, and with them inactive ones that are hidden.

    Where all inactive ones learn (DNW), those of the active ones; see `needs_dense_gradient`.
    """
    learning = sparsifier.weights.learning
    return sparsifier.masks if learning is None else learning


def needs_dense_gradient(sparsifier: Sparsifier) -> bool:
    """Whether the gradients of inactive connections are read at this step, `gradient_masks` aside."""
    algorithm, step = sparsifier.algorithm, sparsifier.step
    is_replaced = algorithm.replaces_step and algorithm.is_update(step)
    return is_replaced or algorithm.needs_dense_gradient(step) or sparsifier.weights.learning is None


def always_needs_dense_gradient(sparsifier: Sparsifier) -> bool:
    """Whether that is so at every step: SNFS averages the dense gradient, with DNW all weights learn."""
    return sparsifier.algorithm.grad_average_decay is not None or sparsifier.weights.learning is None


def weight_gradient_density(sparsifier: Sparsifier) -> dict[str, float]:
    """Fraction of each layer's weights that get a gradient at this step: what its computation costs."""
    if sparsifier.algorithm.needs_dense_gradient(sparsifier.step):
        return dict.fromkeys(sparsifier.masks, 1.0)
    return sparsifier.weights.learning_density()
