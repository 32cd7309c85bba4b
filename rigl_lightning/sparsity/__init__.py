"""Sparse training in plain PyTorch: masks, scores, schedules, algorithms and the Sparsifier. No Lightning here."""

from rigl_lightning.sparsity.algorithms import (
    DNW,
    DSR,
    SET,
    SNFS,
    SNIP,
    DeepR,
    Dense,
    DropGrow,
    FixedMasks,
    GradualMagnitudePruning,
    GraSP,
    LotteryTicket,
    OneShot,
    OneShotMagnitude,
    RigL,
    SparseAlgorithm,
    Static,
    TopKAST,
)
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Uniform
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.sparsifier import Sparsifier

__all__ = [
    "DNW",
    "DSR",
    "SET",
    "SNFS",
    "SNIP",
    "DeepR",
    "Dense",
    "Distribution",
    "DropGrow",
    "ErdosRenyi",
    "FixedMasks",
    "GraSP",
    "GradualMagnitudePruning",
    "InversePower",
    "LotteryTicket",
    "OneShot",
    "OneShotMagnitude",
    "RigL",
    "SparseAlgorithm",
    "Sparsifier",
    "Static",
    "TopKAST",
    "Uniform",
    "UpdateSchedule",
    "select_parameters",
]
