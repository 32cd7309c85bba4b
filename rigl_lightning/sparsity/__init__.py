"""Sparse training in plain PyTorch: masks, scores, schedules, algorithms and the Sparsifier. No Lightning here."""

from rigl_lightning.sparsity.algorithms import (
    SET,
    SNFS,
    SNIP,
    Dense,
    DropGrow,
    FixedMasks,
    GradualMagnitudePruning,
    RigL,
    SparseAlgorithm,
    Static,
)
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Uniform
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.sparsifier import Sparsifier

__all__ = [
    "SET",
    "SNFS",
    "SNIP",
    "Dense",
    "Distribution",
    "DropGrow",
    "ErdosRenyi",
    "FixedMasks",
    "GradualMagnitudePruning",
    "InversePower",
    "RigL",
    "SparseAlgorithm",
    "Sparsifier",
    "Static",
    "Uniform",
    "UpdateSchedule",
    "select_parameters",
]
