"""The largest weights of a layer, chosen anew among all of its connections: the base of several methods."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.algorithms.base import Masks, Memory
from rigl_lightning.sparsity.algorithms.constant_sparsity import ConstantSparsity
from rigl_lightning.sparsity.algorithms.global_ranking import topk_of_all_layers
from rigl_lightning.sparsity.algorithms.planned_counts import planned_counts
from rigl_lightning.sparsity.fan_in import topk_with_minimum_fan_in
from rigl_lightning.sparsity.layouts import rows_are_units
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import require
from rigl_lightning.sparsity.structures import Unstructured, structured_drop_and_grow


class TopK(ConstantSparsity):
    """Base of the methods whose masks are the largest weights at every update.

    They differ in when they update, in how many weights they keep, and in what becomes of the others: with
    `hides_inactive_weights` those learn, as does every weight.

    Attributes:
        min_fan_in: Incoming connections that every unit has at least, as far as the layer's connections go.
        global_ranking: Rank the connections of all layers together.
    """

    min_fan_in: int = 0
    global_ranking: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.min_fan_in, int) and not isinstance(self.min_fan_in, bool) and self.min_fan_in >= 0
        has_rule = self.min_fan_in == 0 or isinstance(self.structure, Unstructured)
        require(whole and has_rule, self, "min_fan_in", "to be a whole number, at least 0, and 0 with a structure")

    def needs_dense_gradient(self, step: int) -> bool:
        """Always, if all weights learn."""
        return self.hides_inactive_weights

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """The largest weights of each layer, or of all layers."""
        counts = planned_counts(self, layers, step + 1)
        if self.global_ranking:
            return topk_of_all_layers({n: layer.weight.abs() for n, layer in layers.items()}, sum(counts.values()))
        return {name: self._largest(layer, counts[name]) for name, layer in layers.items()}

    def _largest(self, layer: Connections, n_active: int) -> Tensor:
        size = layer.weight.abs()
        if n_active == size.numel():
            return torch.ones_like(layer.mask)
        if not isinstance(self.structure, Unstructured):
            # All are dropped, so that those that grow are the best of all that the structure allows.
            return structured_drop_and_grow(self.structure, layer, size, size, count_active(layer.mask))
        if self.min_fan_in:
            units = rows_are_units(size, layer.inputs_first)
            return rows_are_units(topk_with_minimum_fan_in(units, n_active, self.min_fan_in), layer.inputs_first)
        return topk_mask(size, n_active)
