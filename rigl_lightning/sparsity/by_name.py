"""Algorithms by name, for notebooks and other configurations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.suggestions import with_suggestion
from rigl_lightning.sparsity import algorithms
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.sparsifier import Sparsifier

_SHORT = {"pruning": "GradualMagnitudePruning", "gmp": "GradualMagnitudePruning", "lottery": "LotteryTicket"}


def algorithm_names() -> list[str]:
    """Names that `algorithm_named` knows: those of the classes, in any case."""
    classes = {name: getattr(algorithms, name) for name in algorithms.__all__ if name[0].isupper()}
    return sorted(name for name, found in classes.items() if not inspect.isabstract(found) and name != "DropGrow")


def algorithm_named(name: str, **settings: Any) -> SparseAlgorithm:
    """An algorithm by its name.

    Args:
        name: Name of the class. Case, hyphens and underscores do not matter. "pruning" and "gmp" are gradual magnitude
            pruning, "lottery" is the lottery ticket.
        **settings: Settings of the class.

    Raises:
        ValueError: If there is no such algorithm, or it has no such setting.

    >>> algorithm_named("rigl", sparsity=0.8).sparsity
    0.8
    """
    known = {known.lower(): known for known in algorithm_names()} | _SHORT
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    if key not in known:
        told = with_suggestion(f"Expected one of {', '.join(algorithm_names())}, got {name!r}", key, known)
        raise SettingError(f"{told} Set `algorithm`.")
    found = getattr(algorithms, known[key])
    allowed = dict.fromkeys([*inspect.signature(found).parameters, *(f.name for f in fields(found) if f.init)])
    unknown = [setting for setting in settings if setting not in allowed]
    if unknown:
        raise SettingError(
            f"Expected settings of {found.__name__}, {', '.join(allowed) or 'none'}, got {', '.join(unknown)}."
        )
    made: SparseAlgorithm = found(**settings)
    return made


def sparsify(
    model: nn.Module | Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    algorithm: str | SparseAlgorithm = "rigl",
    total_steps: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> Sparsifier:
    """`Sparsifier.attach` with an algorithm by name: makes a model sparse, without a change of the training loop.

    Args:
        model: Model whose linear, convolution, recurrent and attention weights become sparse; or the weights by name.
        optimizer: Optimizer of the model.
        algorithm: Name for `algorithm_named`, or an algorithm.
        total_steps: Optimizer steps of the whole training.
        seed: Seed of masks and growth.
        **settings: Settings of the named algorithm.

    Raises:
        ValueError: As `algorithm_named` and `Sparsifier.attach`.

    >>> import torch
    >>> model = nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier = sparsify(model, optimizer, "rigl", sparsity=0.9, total_steps=100)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 20)).square().mean().backward()
    ...     optimizer.step()
    >>> sparsifier.step, int((model.weight != 0).sum())
    (3, 20)
    """
    if isinstance(algorithm, str):
        algorithm = algorithm_named(algorithm, **settings)
    elif settings:
        raise SettingError(
            f"Expected settings only with a name, got {', '.join(settings)} with {type(algorithm).__name__}. Give "
            "them to the algorithm."
        )
    return Sparsifier.attach(model, optimizer, algorithm, total_steps, seed=seed)
