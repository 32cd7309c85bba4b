"""How many connections the layers have by plan."""

from collections.abc import Mapping

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.algorithms.base import SparseAlgorithm
from rigl_lightning.sparsity.distributions import active_counts
from rigl_lightning.sparsity.scores import Connections


def planned_counts(algorithm: SparseAlgorithm, layers: Mapping[str, Connections], step: int) -> dict[str, int]:
    """Active connections of each layer while the gradients of ``step`` are computed, see `layer_sparsities`."""
    shapes = {name: layer.shape for name, layer in layers.items()}
    return active_counts(shapes, algorithm.layer_sparsities(shapes, step))


def falling_counts(algorithm: SparseAlgorithm, layers: Mapping[str, Connections], step: int) -> dict[str, int]:
    """`planned_counts` for a method that grows nothing, with the same total.

    From one update to the next a layer's share may be rounded down and then up. So no layer has more than now, and none
    has fewer than in the end.
    """
    shapes = {name: layer.shape for name, layer in layers.items()}
    final = active_counts(shapes, algorithm.final_sparsities(shapes))
    now = {name: count_active(layer.mask) for name, layer in layers.items()}
    bounds = {name: (min(final[name], now[name]), now[name]) for name in layers}
    return active_counts(shapes, algorithm.layer_sparsities(shapes, step), bounds)
