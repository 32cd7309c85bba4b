"""Sparse-from-scratch training for PyTorch Lightning, after "Rigging the Lottery: Making All Tickets Winners"."""

from rigl_lightning.callback import SparseTrainingCallback
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

__version__ = "0.1.0"

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
    "SparseTrainingCallback",
    "Sparsifier",
    "Static",
    "Uniform",
    "UpdateSchedule",
    "select_parameters",
]
