"""Costs: what a whole training and an inference will take, relative to the dense network, before any of it is run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.costs.flops import sparse_forward_flops, training_flops
from rigl_lightning.sparsity.distributions import Shapes


def planned_inference_flops(algorithm: SparseAlgorithm, shapes: Shapes, dense_flops: Mapping[str, float]) -> float:
    """Forward FLOPs of the final sparse network, as a fraction of the dense network's.

    Args:
        algorithm: Resolved, so that its schedule is in steps.
        shapes: Shape of each sparse layer by name.
        dense_flops: Forward FLOPs of each weight when dense, as from `trace_flops`; weights that are not sparse count
            too.
    """
    return _forward(algorithm.final_sparsities(shapes), dense_flops) / sum(dense_flops.values())


def planned_training_flops(
    algorithm: SparseAlgorithm, shapes: Shapes, dense_flops: Mapping[str, float], total_steps: int
) -> float:
    """FLOPs of a training of ``total_steps``, as a fraction of the dense network's for the same number of steps.

    A mask update that replaces the gradient step counts as a step. Arguments as in `planned_inference_flops`.

    >>> from rigl_lightning.sparsity.algorithms import SNFS, Static
    >>> from rigl_lightning.sparsity.distributions import Uniform
    >>> shapes, flops = {"a": (10, 10)}, {"a": 200}
    >>> uniform = Uniform(first_layer_dense=False)
    >>> round(planned_training_flops(Static(0.9, uniform), shapes, flops, 100), 3)
    0.1
    >>> round(planned_training_flops(SNFS(0.9, uniform).resolve(100), shapes, flops, 100), 3)  # (2 · 0.1 + 1) / 3
    0.4
    """
    # Between these steps nothing changes.
    changes = sorted({0, total_steps, *(step for step in algorithm.cost_changes() if step < total_steps)})
    dense = sum(dense_flops.values())
    known: dict[tuple[float, ...], float] = {}  # thousands of updates, and mostly the same few sparsities

    def flops(sparsities: Mapping[str, float]) -> float:
        key = tuple(sparsities[name] for name in shapes)
        if key not in known:
            known[key] = _forward(sparsities, dense_flops)
        return known[key]

    total = 0.0
    for start, stop in pairwise(changes):
        forward = flops(algorithm.layer_sparsities(shapes, start))
        weight_gradient = flops(algorithm.weight_gradient_sparsities(shapes, start))
        total += (stop - start) * training_flops(forward, weight_gradient)
    return total / (total_steps * training_flops(dense, dense))


def _forward(sparsities: Mapping[str, float], dense_flops: Mapping[str, float]) -> float:
    return sparse_forward_flops(dense_flops, {name: 1 - sparsity for name, sparsity in sparsities.items()})
