"""Sparse training algorithms."""

from rigl_lightning.sparsity.algorithms.base import SparseAlgorithm, describe
from rigl_lightning.sparsity.algorithms.drop_grow import SET, SNFS, DropGrow, RigL
from rigl_lightning.sparsity.algorithms.fixed import Dense, FixedMasks, Static
from rigl_lightning.sparsity.algorithms.granet import GraNet
from rigl_lightning.sparsity.algorithms.itop import SETITOP, RigLITOP
from rigl_lightning.sparsity.algorithms.pruning import GradualMagnitudePruning
from rigl_lightning.sparsity.algorithms.snip import SNIP

__all__ = [
    "SET",
    "SETITOP",
    "SNFS",
    "SNIP",
    "Dense",
    "DropGrow",
    "FixedMasks",
    "GraNet",
    "GradualMagnitudePruning",
    "RigL",
    "RigLITOP",
    "SparseAlgorithm",
    "Static",
    "describe",
]
