"""Training with truly sparse layers: the modules stay the user's, their forward goes through `rigl_lightning.kernels`.

`SparseCompute` says which layers and when, `layers` how each kind computes, `choice` what is faster, `installation` how
a module's forward is replaced and given back.
"""

from rigl_lightning.compute.sparse_compute import Compute, SparseCompute, check_compute
from rigl_lightning.compute.table import compute_table, dense_layers

__all__ = ["Compute", "SparseCompute", "check_compute", "compute_table", "dense_layers"]
