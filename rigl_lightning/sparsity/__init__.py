"""Sparse training in plain PyTorch: masks, scores, schedules, algorithms and the Sparsifier. No Lightning here.

To read, in this order, with what is decided where:

- ``masks``                 the drop and the grow of one layer: `drop_and_grow`; exact counts, ties by position
- ``scores``                by what is dropped and grown; what a score may see is in ``connections``
- ``distributions``         sparsity of each layer: uniform, Erdős-Rényi (ER), with kernel sizes (ERK)
- ``schedules``             when masks are updated, and how the drop fraction decays
- ``algorithms/base``       the questions that an algorithm answers; ``algorithms/drop_grow``: SET and RigL
- ``sparsifier``            one training step: `before_step`, `after_step`; `state_dict` and `load_state_dict` (resume)
- ``trainer/callback``      the same in Lightning: hooks, and one step as pseudocode

What a step calls on the way: ``network_masks`` (the masks of all layers, their counts), ``weights`` and
``hidden_weights`` (what parameters hold), ``gradients`` (which are read), ``mask_update`` (new masks, weights and
optimizer state follow), ``compact_weights`` (layers that store active connections only). Refused are processes that
hold a part of a weight: FSDP and DeepSpeed in ``trainer/checks``, DTensor in ``parameters``.
"""

from rigl_lightning.sparsity.algorithms import (
    ACDC,
    DNW,
    DSR,
    MEST,
    SET,
    SETITOP,
    SNFS,
    SNIP,
    SRSTE,
    AnnealedTopK,
    CHTs,
    DeepR,
    Dense,
    DropGrow,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    GraSP,
    Group,
    LotteryTicket,
    OneShot,
    OneShotMagnitude,
    RigL,
    RigLITOP,
    SparseAlgorithm,
    Static,
    TopKAST,
)
from rigl_lightning.sparsity.by_name import algorithm_named, sparsify
from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Uniform
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.ramps import SparsityRamp
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn, Structure, Unstructured
from rigl_lightning.sparsity.transposable import TransposableNM

__all__ = [
    "ACDC",
    "DNW",
    "DSR",
    "MEST",
    "NM",
    "SET",
    "SETITOP",
    "SNFS",
    "SNIP",
    "SRSTE",
    "AnnealedTopK",
    "Blocks",
    "ByDensity",
    "CHTs",
    "ConstantFanIn",
    "DeepR",
    "Dense",
    "Distribution",
    "DropGrow",
    "ErdosRenyi",
    "FixedMasks",
    "GraNet",
    "GraSP",
    "GradualMagnitudePruning",
    "Group",
    "InversePower",
    "LotteryTicket",
    "OneShot",
    "OneShotMagnitude",
    "RigL",
    "RigLITOP",
    "SparseAlgorithm",
    "Sparsifier",
    "SparsityRamp",
    "Static",
    "Structure",
    "TopKAST",
    "TransposableNM",
    "Uniform",
    "Unstructured",
    "UpdateSchedule",
    "algorithm_named",
    "select_parameters",
    "sparsify",
]
