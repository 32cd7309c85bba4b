"""The masks of a network: which connections of each sparse layer are active, were ever, and were at first."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.grouped import GroupedMasks
from rigl_lightning.kernels.positions import count_active, positions
from rigl_lightning.sparsity.compact_weights import CompactWeight
from rigl_lightning.sparsity.files.masks import check_fit, pack_masks, unpack_masks
from rigl_lightning.sparsity.names import same_tensors
from rigl_lightning.sparsity.packed_masks import LayerMasks, PackedMask, in_few_bytes, pack_mask, unpack_mask


class Change(NamedTuple):
    """Connections of one layer that a mask update drops or grows.

    Attributes:
        where: Boolean, of the weight's shape.
        at: Their positions in row-major order.
    """

    where: Tensor
    at: Tensor


class NetworkMasks:
    """The masks of all sparse layers, changed in place. All connections are active until masks are set.

    Args:
        parameters: Sparse weights by name; each mask has the device and the memory format of its weight.
        compact: Those that are compact from the beginning, with their first connections.

    Attributes:
        masks: Boolean tensor by name, True where a connection is active.
        explored: The same, True where a connection was ever active.
        n_active: Active connections by name.
        sizes: Connections by name, active or not.
        sparse_layers: Names of the layers that have an inactive connection.
        compact: Positions of the active connections, of layers whose tensors hold these only: there is nothing to mask.
            Their masks are made when they are read, and what was explored takes one bit a connection.
        masked_layers: The sparse layers that are not compact.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], compact: Mapping[str, CompactWeight] | None = None
    ) -> None:
        compact = compact or {}
        masks = {
            name: torch.ones_like(p, dtype=torch.bool, requires_grad=False)
            if name not in compact
            else compact[name].mask
            for name, p in parameters.items()
        }
        self.masks = LayerMasks(masks)
        self.explored = LayerMasks({n: mask.clone() if isinstance(mask, Tensor) else mask for n, mask in masks.items()})
        self.sizes = {n: math.prod(compact[n].shape if n in compact else p.shape) for n, p in parameters.items()}
        self.n_active: dict[str, int] = {}
        self.sparse_layers: list[str] = []
        self.compact: dict[str, Callable[[], Tensor]] = {}
        self.masked_layers: list[str] = []
        self._first: dict[str, Any] = {}
        self._explored_bits: dict[str, PackedMask] = {}
        self._n_explored: dict[str, int] = {}
        self._grouped = GroupedMasks(self.masks)
        self._is_on_gpu = any(parameter.is_cuda for parameter in parameters.values())
        for name, weight in compact.items():
            self._begin_compactly(name, weight)

    @property
    def is_captured(self) -> bool:
        """Whether a CUDA graph is being captured of the step: nothing runs now, nothing can be read."""
        return self._is_on_gpu and torch.cuda.is_current_stream_capturing()

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take these masks as the first ones."""
        for name, mask in masks.items():
            self.masks[name].copy_(mask)
            self.explored[name].copy_(mask)
        self._first.update(pack_masks(masks))
        self._count()

    def zero_inactive_(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Set what belongs to inactive connections to zero, in place, in all layers.

        Args:
            tensors: Weights or gradients by layer name; a layer that has none is left out, or has None.
        """
        # A captured graph has to hold layers that are dense now and not after the next mask update.
        names = self.masks.kept() if self.is_captured else self.masked_layers
        self._grouped.zero_inactive_({name: found for name in names if (found := tensors.get(name)) is not None})

    def change(self, name: str, new_mask: Tensor) -> Change | None:
        """Where ``new_mask`` differs from the layer's mask; None if nowhere.

        A connection that was dropped and grown again in one update has not changed: it keeps its value and its
        optimizer state, as in the reference (sparse_optimizers_base.py:328-334).
        """
        if new_mask is self.masks[name]:
            return None
        where = self.masks[name] ^ new_mask
        at = positions(where)
        return None if at.numel() == 0 else Change(where, at)

    def move(self, name: str, new_mask: Tensor, change: Change) -> Tensor:
        """Make ``new_mask`` the layer's mask; returns the positions of the grown connections."""
        mask = self.masks[name]
        mask.copy_(new_mask)
        grown = change.at[mask.reshape(-1)[change.at]]
        self._n_explored[name] += _add_to(self.explored[name], grown)
        was_dense = self.n_active[name] == self.sizes[name]
        self.n_active[name] += 2 * grown.numel() - change.at.numel()
        if was_dense or self.n_active[name] == self.sizes[name]:
            self.list_layers()
        return grown

    def apply_to(self, module: nn.Module) -> None:
        """Set the weights of inactive connections to zero in a copy of the model, such as an average of its weights.

        Args:
            module: Has the sparse parameters by the same names as the model, or wrapped ones (DDP, torch.compile,
                AveragedModel, as an attribute); others are left alone.

        Raises:
            ValueError: If it does not have all of them.
        """
        parameters = dict(module.named_parameters())
        names = same_tensors(self.masks, parameters)
        if names is None:
            raise SettingError(
                f"Expected a copy of the model, with its sparse weights {list(self.masks)}, got a "
                f"{type(module).__name__} with {list(parameters)}. Give the module whose weights are copies."
            )
        for name, mask in self.masks.items():
            parameter = parameters[names[name]]
            parameter.masked_fill_(~mask.to(parameter.device), 0)

    def density(self) -> dict[str, float]:
        """Density of each layer, in [0, 1]. Counts masks, not non-zero weights: a grown connection starts at zero."""
        return {name: self.n_active[name] / size for name, size in self.sizes.items()}

    def total_density(self) -> float:
        """Density of all layers together, in [0, 1]."""
        return sum(self.n_active.values()) / sum(self.sizes.values())

    def exploration(self) -> float:
        """Fraction of all connections that have been active at any time, in [0, 1].

        The in-time over-parameterisation rate of ITOP (Liu et al. 2021, arXiv 2102.02887, section 3.1).
        """
        return sum(self._n_explored.values()) / sum(self.sizes.values())

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each layer's mask, equal on every process that has the same masks."""
        return {name: zlib.crc32(pack_mask(mask).numpy().tobytes()) for name, mask in self.masks.items()}

    def first_masks(self) -> dict[str, Tensor]:
        """The masks that training began with, on the CPU."""
        return unpack_masks(self._packed_first_masks())

    def state_dict(self) -> dict[str, Any]:
        """Masks at one bit a connection, as CPU tensors."""
        masks, explored = pack_masks(self.masks), pack_masks(self.explored)
        return {"masks": masks, "explored": explored, "first_masks": self._packed_first_masks()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What an earlier `state_dict` returned.

        Raises:
            ValueError: If it is of other layers or shapes.
        """
        remedy = "Set the model, and `include` and `exclude` of SparseTrainingCallback, as in the run that is resumed."
        own = {n: self._explored_bits[n].shape if n in self.compact else self.masks[n].shape for n in self.masks}
        check_fit({name: packed["shape"] for name, packed in state["masks"].items()}, own, remedy)
        for name in self.masks:
            masks, explored = state["masks"][name], state["explored"][name]
            if name in self.compact:  # whose positions `Weights.load_state_dict` sets
                self._explored_bits[name] = bits = PackedMask(explored["bits"].clone(), explored["shape"])
                self.explored.replace(name, bits.mask)
                self._n_explored[name] = bits.count()
            else:
                self.masks[name].copy_(unpack_mask(masks["bits"], masks["shape"]))
                self.explored[name].copy_(unpack_mask(explored["bits"], explored["shape"]))
        self._first = dict(state["first_masks"])
        self._count()

    def _count(self) -> None:
        names = [name for name in self.masks if name not in self.compact]
        self.n_active.update({name: count_active(self.masks[name]) for name in names})
        self._n_explored.update({name: count_active(self.explored[name]) for name in names})
        self.list_layers()

    def list_layers(self) -> None:
        """Set `sparse_layers` and `masked_layers` by the counts of now."""
        self.sparse_layers = [name for name, count in self.n_active.items() if count < self.sizes[name]]
        self.masked_layers = [name for name in self.sparse_layers if name not in self.compact]

    # ---- layers that store their active connections only --------------------------------------------------------

    def store_compactly(self, name: str, weight: CompactWeight) -> None:
        """Keep no byte a connection for a layer whose weight is compact."""
        first = unpack_masks({name: self._first[name]})[name]
        self._first[name] = in_few_bytes(positions(first))
        self._explored_bits[name] = PackedMask.of(self.explored[name])
        self.explored.replace(name, self._explored_bits[name].mask)
        self.masks.replace(name, weight.mask)
        self.compact[name] = weight.positions
        self.list_layers()

    def store_densely(self, name: str) -> None:
        """Undo `store_compactly`."""
        self._first[name] = self._packed_first(name)
        self.masks.replace(name, self.masks[name])
        self.explored.replace(name, self._explored_bits.pop(name).mask())
        del self.compact[name]
        self.list_layers()

    def note_moved(self, name: str, grown: Tensor, n_active: int) -> None:
        """A compact layer has moved: positions of its new connections, ascending, and how many are active now."""
        self._n_explored[name] += self._explored_bits[name].add(grown)
        self.n_active[name] = n_active

    def _begin_compactly(self, name: str, weight: CompactWeight) -> None:
        active = weight.positions()
        self._first[name] = in_few_bytes(active)
        self._explored_bits[name] = PackedMask.of_positions(active, weight.shape)
        self.explored.replace(name, self._explored_bits[name].mask)
        self.compact[name] = weight.positions
        self.n_active[name] = self._n_explored[name] = weight.n_active

    def _packed_first_masks(self) -> dict[str, dict[str, Any]]:
        return {name: self._packed_first(name) for name in self._first}

    def _packed_first(self, name: str) -> dict[str, Any]:
        first = self._first[name]
        if isinstance(first, dict):
            return first
        packed = PackedMask.of_positions(first.long(), self._explored_bits[name].shape)
        return {"shape": list(packed.shape), "bits": packed.bits}


class MaskReadings:
    """What can be read of masks, for a class that holds a ``network`` of them."""

    network: NetworkMasks

    @torch.no_grad()
    def apply_masks_to(self, module: nn.Module) -> None:
        """Mask a copy of the model, such as an average of its weights, see `NetworkMasks.apply_to`."""
        self.network.apply_to(module)

    def density(self) -> dict[str, float]:
        """Density of each layer, in [0, 1]."""
        return self.network.density()

    def total_density(self) -> float:
        """Density of all layers together, in [0, 1]."""
        return self.network.total_density()

    def exploration(self) -> float:
        """Fraction of all connections that have been active at any time, in [0, 1]."""
        return self.network.exploration()

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each layer's mask, equal on every process that has the same masks."""
        return self.network.checksums()


def _add_to(explored: Tensor, grown: Tensor) -> int:
    """Note positions as explored; returns how many are new."""
    flat = explored.view(-1) if explored.is_contiguous() else explored.reshape(-1)
    n_new = grown.numel() - count_active(flat[grown])
    flat[grown] = True
    if not explored.is_contiguous():
        explored.copy_(flat.view(explored.shape))
    return n_new
