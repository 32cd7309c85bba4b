"""Truly sparse layers on the CPU: only active connections are read and differentiated.

Weights stay the user's dense parameters, zero at inactive connections; a `SparsePattern` says which are active. Knows
nothing of algorithms, and everything works without it.
"""

from rigl_lightning.kernels.batch_norm import batch_norm2d
from rigl_lightning.kernels.conv import sparse_conv2d
from rigl_lightning.kernels.linear import sparse_linear
from rigl_lightning.kernels.pattern import SparsePattern
from rigl_lightning.kernels.recurrent import sparse_gru, sparse_lstm
from rigl_lightning.kernels.recurrent_types import Patterns, Weights
from rigl_lightning.kernels.stored import stored_conv2d, stored_linear, stored_recurrent
from rigl_lightning.kernels.stored_types import Stored
from rigl_lightning.kernels.tiers import available, tier_of, use_tier
from rigl_lightning.kernels.workspace import release

__all__ = [
    "Patterns",
    "SparsePattern",
    "Stored",
    "Weights",
    "available",
    "batch_norm2d",
    "release",
    "sparse_conv2d",
    "sparse_gru",
    "sparse_linear",
    "sparse_lstm",
    "stored_conv2d",
    "stored_linear",
    "stored_recurrent",
    "tier_of",
    "use_tier",
]
