"""Sparse training in plain PyTorch: masks, scores, schedules, algorithms and the Sparsifier. No Lightning here.

The files in the order to read them, with what each decides:

- ``masks``                 the drop and the grow of one layer: `drop_and_grow`; exact counts, ties by position
- ``scores``                the rankings for drop and grow; what a score may read is in ``connections``
- ``distributions``         sparsity of each layer: uniform, Erdős-Rényi (ER), with kernel sizes (ERK)
- ``schedules``             when masks are updated, and how the drop fraction decays
- ``algorithms/base``       the questions that an algorithm answers; ``algorithms/drop_grow``: SET and RigL
- ``sparsifier``            one training step: `before_step`, `after_step`; `state_dict` and `load_state_dict` (resume)
- ``trainer/callback``      the same in Lightning: hooks, and one step as pseudocode

A step also calls:

- ``gradients``             which gradients an algorithm reads, and the averages it keeps
- ``mask_update``           new masks; weights and optimizer state of what was dropped or grown follow
- ``network_masks``         the masks of all layers; `zero_inactive_` applies them, to gradients and to weights
- ``optimizer_state``       `reset_state`: momenta of connections that are dropped or grown
- ``refused_optimizers``    LBFGS and others whose state no mask can follow
- ``weights``               what parameters hold; ``hidden_weights`` where inactive weights go on learning

Elsewhere:

- ``counts``                sparsities to whole numbers of connections: the rounding
- ``structures``            N:M, blocks, constant fan-in: which connections of a layer must be active together
- ``costs/``                FLOPs (``costs/flops``, also under the name ``flops``), bytes, neurons and widths
- ``compact_weights``       layers that store active connections only; ``streamed_growth`` is their drop and grow
- refusals                  FSDP and DeepSpeed in ``trainer/checks``, a DTensor in ``parameters``: parts of a weight
- ``trainer/beginning``     a fit begins, resumes from a checkpoint, or continues the fit before
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
