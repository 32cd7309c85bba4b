"""Sparse training algorithms."""

from rigl_lightning.sparsity.algorithms.base import SparseAlgorithm, describe
from rigl_lightning.sparsity.algorithms.drop_grow import SET, SNFS, DropGrow, RigL
from rigl_lightning.sparsity.algorithms.fixed import Dense, FixedMasks, Static
from rigl_lightning.sparsity.algorithms.pruning import GradualMagnitudePruning
from rigl_lightning.sparsity.algorithms.snip import SNIP

__all__ = [
    "SET",
    "SNFS",
    "SNIP",
    "Dense",
    "DropGrow",
    "FixedMasks",
    "GradualMagnitudePruning",
    "RigL",
    "SparseAlgorithm",
    "Static",
    "describe",
]
