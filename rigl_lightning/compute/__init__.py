"""Training with truly sparse layers: the modules stay the user's, their forward goes through `rigl_lightning.kernels`.

`SparseCompute` says which layers and when, `layers` how each kind computes, `storage` how its weights are stored,
`timed_choice` what is faster, `installation` how a module's forward is replaced and given back.
"""

from rigl_lightning.compute.building import build_sparse
from rigl_lightning.compute.saving import load_sparse, save_sparse
from rigl_lightning.compute.sparse_compute import Compute, SparseCompute, check_compute, check_storage
from rigl_lightning.compute.storage import Storage
from rigl_lightning.compute.table import compute_table, dense_layers, densely_stored, whole_step_line

__all__ = [
    "Compute",
    "SparseCompute",
    "Storage",
    "build_sparse",
    "check_compute",
    "check_storage",
    "compute_table",
    "dense_layers",
    "densely_stored",
    "load_sparse",
    "save_sparse",
    "whole_step_line",
]
