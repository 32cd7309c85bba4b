"""How many connections the layers have by plan."""

from collections.abc import Mapping

from rigl_lightning.sparsity.algorithms.base import SparseAlgorithm
from rigl_lightning.sparsity.distributions import active_counts
from rigl_lightning.sparsity.scores import Connections


def planned_counts(algorithm: SparseAlgorithm, layers: Mapping[str, Connections], step: int) -> dict[str, int]:
    """Active connections of each layer while the gradients of ``step`` are computed, see `layer_sparsities`."""
    shapes = {name: layer.shape for name, layer in layers.items()}
    return active_counts(shapes, algorithm.layer_sparsities(shapes, step))
