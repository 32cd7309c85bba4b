"""summary: the sparsity and cost that an algorithm gives a network, before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rigl_lightning.reports.layer_table import layer_table
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.cautions import refuse_other_than_algorithm
from rigl_lightning.sparsity.costs.flops import flops_per_sample
from rigl_lightning.sparsity.layouts import shapes_of
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.settings import checked_length


def summary(
    model: nn.Module,
    algorithm: SparseAlgorithm,
    total_steps: int | None = None,
    inputs: Any = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> str:
    """The table that a training shows before its first step: layers, connections, sparsities, mask updates, FLOPs.

    Args:
        model: Any module; it is not changed.
        algorithm: The algorithm to show.
        total_steps: Optimizer steps of the whole training; needed if the schedule gives fractions of it.
        inputs: A batch, for the FLOPs: a tensor, a tuple of positional or a dict of named ones; None leaves them out.
        include: Name patterns of the weights to make sparse, see `select_parameters`.
        exclude: Name patterns of weights that stay dense.

    Raises:
        ValueError: If settings do not fit the model.

    >>> from rigl_lightning import RigL
    >>> print(summary(nn.Linear(20, 10), RigL(0.9), total_steps=1000).splitlines()[-1].split())
    ['total', '200', '20', '0.9000']
    """
    refuse_other_than_algorithm(algorithm)
    total_steps = checked_length(total_steps)
    parameters = select_parameters(model, include, exclude)
    flops = None
    if inputs is not None:
        positional, named = _arguments(inputs)
        flops = flops_per_sample(model, *positional, **named)
    return layer_table(algorithm.resolve(total_steps), shapes_of(parameters), total_steps, flops)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
