"""Sparse training in plain PyTorch: masks, scores, schedules, algorithms and the Sparsifier. No Lightning here."""

from rigl_lightning.sparsity.algorithms import (
    SET,
    SETITOP,
    SNFS,
    SNIP,
    Dense,
    DropGrow,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    RigL,
    RigLITOP,
    SparseAlgorithm,
    Static,
)
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Uniform
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn, Structure, Unstructured

__all__ = [
    "NM",
    "SET",
    "SETITOP",
    "SNFS",
    "SNIP",
    "Blocks",
    "ConstantFanIn",
    "Dense",
    "Distribution",
    "DropGrow",
    "ErdosRenyi",
    "FixedMasks",
    "GraNet",
    "GradualMagnitudePruning",
    "InversePower",
    "RigL",
    "RigLITOP",
    "SparseAlgorithm",
    "Sparsifier",
    "Static",
    "Structure",
    "Uniform",
    "Unstructured",
    "UpdateSchedule",
    "select_parameters",
]
