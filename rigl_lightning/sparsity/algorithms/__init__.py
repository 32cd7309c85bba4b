"""Sparse training algorithms."""

from rigl_lightning.sparsity.algorithms.ac_dc import ACDC
from rigl_lightning.sparsity.algorithms.annealed_top_k import AnnealedTopK
from rigl_lightning.sparsity.algorithms.base import SparseAlgorithm
from rigl_lightning.sparsity.algorithms.chts import CHTs
from rigl_lightning.sparsity.algorithms.deep_r import DeepR
from rigl_lightning.sparsity.algorithms.dnw import DNW
from rigl_lightning.sparsity.algorithms.drop_grow import SET, DropGrow, RigL
from rigl_lightning.sparsity.algorithms.dsr import DSR
from rigl_lightning.sparsity.algorithms.fixed import Dense, FixedMasks, Static
from rigl_lightning.sparsity.algorithms.granet import GraNet
from rigl_lightning.sparsity.algorithms.grasp import GraSP
from rigl_lightning.sparsity.algorithms.group import Group
from rigl_lightning.sparsity.algorithms.itop import SETITOP, RigLITOP
from rigl_lightning.sparsity.algorithms.lottery import LotteryTicket
from rigl_lightning.sparsity.algorithms.mest import MEST
from rigl_lightning.sparsity.algorithms.one_shot import OneShot, OneShotMagnitude
from rigl_lightning.sparsity.algorithms.pruning import GradualMagnitudePruning
from rigl_lightning.sparsity.algorithms.snfs import SNFS
from rigl_lightning.sparsity.algorithms.snip import SNIP
from rigl_lightning.sparsity.algorithms.sr_ste import SRSTE
from rigl_lightning.sparsity.algorithms.top_kast import TopKAST
from rigl_lightning.sparsity.settings import describe

__all__ = [
    "ACDC",
    "DNW",
    "DSR",
    "MEST",
    "SET",
    "SETITOP",
    "SNFS",
    "SNIP",
    "SRSTE",
    "AnnealedTopK",
    "CHTs",
    "DeepR",
    "Dense",
    "DropGrow",
    "FixedMasks",
    "GraNet",
    "GraSP",
    "GradualMagnitudePruning",
    "Group",
    "LotteryTicket",
    "OneShot",
    "OneShotMagnitude",
    "RigL",
    "RigLITOP",
    "SparseAlgorithm",
    "Static",
    "TopKAST",
    "describe",
]
