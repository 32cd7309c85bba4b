"""Structures: which connections of a layer must be active together, or in which number, so that hardware can use it.

A structure is a setting of an algorithm, not another algorithm. It answers four questions: which sparsities a layer can
have (`layer_sparsities`, asked before training, so that nothing is refused later), a random mask with that count
(`random_mask`), one mask update (`drop_and_grow`), and which layers may lose neurons (`ablated_layers`).

Shapes are torch's: (out, in) or (out, in / groups, *kernel), or `InputsFirst`. A transposed convolution with groups
stores (in, out / groups, *kernel), which its shape does not tell: exclude it. As everywhere, counts are exact and equal
scores are decided by position, so that masks are the same on every device, thread count and process.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity import masks
from rigl_lightning.sparsity.claims import Claiming
from rigl_lightning.sparsity.connections import Connections
from rigl_lightning.sparsity.distributions import Shapes, active_counts
from rigl_lightning.sparsity.layouts import InputsFirst, outputs_first, rows_are_units
from rigl_lightning.sparsity.names import matching_names
from rigl_lightning.sparsity.selection import largest, largest_per_row, smallest
from rigl_lightning.sparsity.settings import check_settings

_ROUNDING = 1e-6
_REMEDY = "Add the layer to `dense` of the distribution, or to `exclude` of SparseTrainingCallback"


class Structure(Claiming, ABC):
    """Base of the structures. A subclass is a frozen dataclass of settings.

    Attributes:
        treats_layers_alone: The masks of a layer do not depend on other layers.
    """

    claims: ClassVar[Mapping[str, tuple[str, ...]]] = {"treats_layers_alone": ("ablated_layers",)}
    treats_layers_alone = True

    def __post_init__(self) -> None:
        check_settings(self)

    @abstractmethod
    def layer_sparsities(self, shapes: Shapes, sparsities: Mapping[str, float]) -> dict[str, float]:
        """Sparsities that layers of this structure can have, close to those asked for.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            sparsities: Sparsity of each layer, as from a `Distribution`. A layer with sparsity 0 is dense: it needs no
                structure.

        Returns:
            Sparsity by name, so that sparsity times number of connections is a whole number.

        Raises:
            ValueError: If a layer's shape or sparsity does not fit.
        """

    @abstractmethod
    def random_mask(self, shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
        """Random mask, on the CPU.

        Args:
            shape: Shape of the weight.
            n_active: Active connections, from a sparsity that `layer_sparsities` returned.
            generator: CPU generator.
        """

    @abstractmethod
    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, budget: int | None = None
    ) -> Tensor:
        """New mask of the same structure after dropping ``n_update`` connections or a few less.

        Args:
            mask: Boolean, of this structure: the connections that are active now.
            drop_score: Same shape. Low is dropped.
            grow_score: Same shape. High is grown.
            n_update: Connections to drop, in [0, number of active connections].
            budget: Connections the layer may have, if it is one of `ablated_layers`; None otherwise.

        Raises:
            ValueError: If a score that is read is NaN.
        """

    def ablated_layers(self, names: Sequence[str]) -> list[str]:
        """Which of the layers may lose neurons, so that an update has to be told their budget.

        Args:
            names: Of the sparse layers that have neurons, in the order of the network; vectors are left out.
        """
        return []


@dataclass(frozen=True)
class Unstructured(Structure):
    """Any connection of a layer may be active, as in the papers of RigL, SET and SNFS."""

    def layer_sparsities(self, shapes: Shapes, sparsities: Mapping[str, float]) -> dict[str, float]:
        """Those asked for."""
        return dict(sparsities)

    def random_mask(self, shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
        """See `masks.random_mask`."""
        return masks.random_mask(shape, n_active, generator)

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, budget: int | None = None
    ) -> Tensor:
        """See `masks.drop_and_grow`."""
        return masks.drop_and_grow(mask, drop_score, grow_score, n_update)


@dataclass(frozen=True)
class NM(Structure):
    """Exactly ``n`` active connections in every ``m`` consecutive inputs of an output.

    In a convolution the inputs are the input channels at one kernel position, as the 2:4 formats of hardware need them
    (weights stored as out, height, width, in). An update drops the lowest-scored connections of the layer, as RigL
    does, and grows as many in the group that lost them. Zhou et al. 2021 (arXiv 2102.04010) train N:M from scratch with
    another method; drop and grow under the same constraint is new here.

    Attributes:
        n: Active connections of a group, in [1, m).
        m: Inputs of a group, at least 2. The inputs of a sparse layer must be a multiple of it.

    >>> generator = torch.Generator().manual_seed(0)
    >>> NM(2, 4).random_mask((3, 8), 12, generator).view(3, 2, 4).sum(2).tolist()
    [[2, 2], [2, 2], [2, 2]]
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not type(self.n) is type(self.m) is int or not 1 <= self.n < self.m:
            raise SettingError(
                "Expected whole numbers with 1 <= n < m, n active connections in a group of m, got "
                f"n={self.n} and m={self.m}. "
                f"Set `n` and `m` of {type(self).__name__}."
            )

    def layer_sparsities(self, shapes: Shapes, sparsities: Mapping[str, float]) -> dict[str, float]:
        """``1 - n / m``, or 0 for a layer that is to be dense.

        Raises:
            ValueError: If a layer is to have another sparsity, or its inputs are no multiple of m.
        """
        wanted = 1 - self.n / self.m
        shapes = {name: outputs_first(shape) for name, shape in shapes.items()}
        for name in _sparse(shapes, sparsities):
            if abs(sparsities[name] - wanted) > _ROUNDING:
                raise SettingError(
                    f"Expected sparsity {wanted:g} in every sparse layer for {self}, got {sparsities[name]:.4g} in "
                    f"{name!r}. Set `sparsity` of the algorithm to {wanted:g}, and `distribution` of the "
                    "algorithm to Uniform."
                )
            if shapes[name][1] % self.m:
                raise SettingError(
                    f"Expected the inputs of {name!r} to be a multiple of m={self.m} for {self}, got {shapes[name][1]} "
                    f"of shape {tuple(shapes[name])}. {_REMEDY}."
                )
        return dict.fromkeys(shapes, 0.0) | dict.fromkeys(_sparse(shapes, sparsities), wanted)

    def random_mask(self, shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
        """Random groups; all True if the layer is dense."""
        if n_active == math.prod(shape):
            return torch.ones(*shape, dtype=torch.bool)
        by_group = torch.empty(*shape, dtype=torch.bool)
        rows = _random_rows(by_group.numel() // self.m, self.m, self.n, generator)
        return _from_groups(rows, by_group)

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, budget: int | None = None
    ) -> Tensor:
        """Drop in the layer, grow in the group."""
        kept = _groups(_survivors(mask, drop_score, n_update), self.m)
        missing = self.n - kept.sum(1)
        return _from_groups(kept | largest_per_row(_groups(grow_score, self.m), missing, ~kept), mask)


@dataclass(frozen=True)
class Blocks(Structure):
    """Blocks of connections that are active or inactive together.

    A block has ``shape[0]`` outputs and ``shape[1]`` inputs; each kernel position of a convolution has its own blocks.
    The score of a block is the sum of the scores of its connections, in double precision. Block-sparse networks (Narang
    et al. 2017, arXiv 1711.02782) prune blocks; drop and grow of blocks is new here.

    Attributes:
        shape: Outputs and inputs of a block, each at least 1 and a divisor of the sparse layers' own.

    >>> Blocks((2, 2)).random_mask((2, 4), 4, torch.Generator().manual_seed(0)).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """

    shape: tuple[int, int] = (4, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_pair = isinstance(self.shape, list | tuple) and len(self.shape) == 2
        if not is_pair or any(type(size) is not int or size < 1 for size in self.shape):
            raise SettingError(
                "Expected `shape` to be outputs and inputs of a block, whole numbers of at least 1, got "
                f"{self.shape}. "
                f"Set `shape` of {type(self).__name__}."
            )

    def layer_sparsities(self, shapes: Shapes, sparsities: Mapping[str, float]) -> dict[str, float]:
        """Whole blocks, with the total asked for to less than a block.

        Raises:
            ValueError: If a sparse layer cannot be cut into blocks without a rest.
        """
        grids = {name: self._grid(name, outputs_first(shapes[name])) for name in _sparse(shapes, sparsities)}
        counts = active_counts(grids, sparsities) if grids else {}
        return {name: 1 - counts[name] / math.prod(grids[name]) if name in grids else 0.0 for name in shapes}

    def random_mask(self, shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
        """Random blocks; all True if the layer is dense."""
        if n_active == math.prod(shape):
            return torch.ones(*shape, dtype=torch.bool)
        grid = (shape[0] // self.shape[0], shape[1] // self.shape[1], *shape[2:])
        return self._spread(masks.random_mask(grid, n_active // math.prod(self.shape), generator))

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, budget: int | None = None
    ) -> Tensor:
        """Move as many whole blocks as have no more than ``n_update`` connections."""
        n_blocks = n_update // math.prod(self.shape)
        if n_blocks == 0:
            return mask
        active = mask[:: self.shape[0], :: self.shape[1]]
        return self._spread(masks.drop_and_grow(active, self._sums(drop_score), self._sums(grow_score), n_blocks))

    def _grid(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        if shape[0] % self.shape[0] or shape[1] % self.shape[1]:
            raise SettingError(
                f"Expected outputs and inputs of {name!r} to be multiples of {self.shape} for {self}, got shape "
                f"{tuple(shape)}. {_REMEDY}, or set `shape` of {type(self).__name__}."
            )
        return (shape[0] // self.shape[0], shape[1] // self.shape[1], *shape[2:])

    def _sums(self, score: Tensor) -> Tensor:
        if self.shape == (1, 1):
            return score
        rows, columns = self.shape
        cut = score.reshape(score.shape[0] // rows, rows, score.shape[1] // columns, columns, *score.shape[2:])
        # In double precision the order of the additions, another one on every device, does not show.
        return cut.sum((1, 3), dtype=torch.float64)

    def _spread(self, blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(self.shape[0], 0).repeat_interleave(self.shape[1], 1)


@dataclass(frozen=True)
class ConstantFanIn(Structure):
    """Every neuron (output channel) has the same number of incoming connections, or none: SRigL's structure.

    With `RigL` this is SRigL (Lasby et al. 2023, arXiv 2305.02299, section 3). An update of a layer whose budget is
    shared by neurons of fan-in k:

    1. K = drop fraction of the active connections; the K with the smallest magnitudes are marked.
    2. Salient are the active connections without a mark, and the K of all others with the largest gradients.
    3. Neurons with fewer salient connections than ``max(1, min_salient · k)`` lose all connections (ablation).
    4. The budget is shared by the other neurons: the new fan-in, rounded down.
    5. K connections are dropped, those of ablated neurons first; each neuron grows to the new fan-in by gradient.

    Steps, threshold, rounding and the exemption of the last layer follow the authors' code (calgaryml/
    condensed-sparsity, src/rigl_torch/rigl_constant_fan.py). An ablated neuron may become active again, as there. Four
    things differ. Step 2 ranks the gradients of connections that can grow, as RigL does; the code also ranks active
    ones. A neuron with too many kept connections (5) loses those with the lowest scores; in the code it loses arbitrary
    ones. If too few neurons are left for the budget, those with the most salient connections stay. The fan-in of a
    layer is its density times its inputs, rounded to the nearest number, at least 1; the code rounds down.

    After an ablation a layer may have fewer connections than its budget, by less than one per surviving neuron.

    Attributes:
        min_salient: Salient connections a neuron needs to stay, as a fraction of the fan-in before ablation, in [0, 1].
        ablation: Whether neurons may be ablated.
        never_ablate: Name patterns of layers that keep all neurons. The last sparse layer always does: its neurons are
            the network's outputs.

    >>> fan_ins = ConstantFanIn().random_mask((3, 8), 6, torch.Generator().manual_seed(0)).sum(1)
    >>> fan_ins.tolist()
    [2, 2, 2]
    """

    min_salient: float = 0.3
    ablation: bool = True
    never_ablate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_salient <= 1:
            raise SettingError(
                f"Expected `min_salient` in [0, 1], got {self.min_salient}. Set `min_salient` of {type(self).__name__}."
            )

    def layer_sparsities(self, shapes: Shapes, sparsities: Mapping[str, float]) -> dict[str, float]:
        """Those of the nearest whole fan-in, at least 1.

        Raises:
            ValueError: If ``never_ablate`` names no layer.
        """
        self.ablated_layers([name for name in shapes if len(shapes[name]) > 1])  # a wrong name is refused here
        rounded = dict.fromkeys(shapes, 0.0)
        for name in _sparse(shapes, sparsities):
            inputs = math.prod(outputs_first(shapes[name])[1:])
            fan_in = max(1, math.floor((1 - sparsities[name]) * inputs + 0.5))
            rounded[name] = 1 - fan_in / inputs
        return rounded

    def ablated_layers(self, names: Sequence[str]) -> list[str]:
        """All but the last, and but those of ``never_ablate``."""
        setting = "structure.never_ablate"
        kept = {name for pattern in self.never_ablate for name in matching_names(pattern, names, setting)}
        return [name for name in names[:-1] if name not in kept] if self.ablation else []

    def random_mask(self, shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
        """The same number of random inputs for every neuron."""
        inputs = math.prod(shape[1:])
        return _random_rows(shape[0], inputs, n_active // shape[0], generator).view(*shape)

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, budget: int | None = None
    ) -> Tensor:
        """Ablate neurons if there is a budget, drop in the layer, grow in each neuron."""
        rows, drop_rows, grow_rows = (tensor.reshape(len(mask), -1) for tensor in (mask, drop_score, grow_score))
        budget_now = count_active(mask) if budget is None else budget
        kept = _survivors(rows, drop_rows, n_update)
        staying = torch.ones(len(rows), dtype=torch.bool, device=mask.device)
        if budget is not None:
            staying = self._staying(kept, grow_rows, n_update, budget)
            active = rows & staying[:, None]
            kept = _survivors(active, drop_rows, max(0, n_update - count_active(rows) + count_active(active)))
        fan_in = budget_now // count_active(staying) * staying
        if bool((kept.sum(1) > fan_in).any()):
            kept = largest_per_row(drop_rows, torch.minimum(kept.sum(1), fan_in), kept)
        return (kept | largest_per_row(grow_rows, fan_in - kept.sum(1), ~kept)).view(mask.shape)

    def _staying(self, kept: Tensor, grow_rows: Tensor, n_update: int, budget: int) -> Tensor:
        """Which neurons stay."""
        salient = kept.reshape(-1).clone()
        salient[largest(grow_rows, n_update, ~kept)] = True
        n_salient = salient.view(kept.shape).sum(1)
        needed = max(1, math.floor(self.min_salient * (budget // len(kept)) + _ROUNDING))
        staying = n_salient >= needed
        staying[largest(n_salient, -(-budget // kept.shape[1]))] = True  # so many neurons the budget needs at least
        return staying


def structured_random_mask(
    structure: Structure, shape: Sequence[int], n_active: int, generator: torch.Generator
) -> Tensor:
    """Mask of a new layer: `Structure.random_mask`, also where the weight is stored inputs first, see `layouts`."""
    if not isinstance(shape, InputsFirst) or isinstance(structure, Unstructured):
        return structure.random_mask(shape, n_active, generator)
    return rows_are_units(structure.random_mask(outputs_first(shape), n_active, generator), True).contiguous()


def structured_drop_and_grow(
    structure: Structure,
    layer: Connections,
    drop_score: Tensor,
    grow_score: Tensor,
    n_update: int,
    budget: int | None = None,
) -> Tensor:
    """New mask of a layer: `Structure.drop_and_grow`, also where the weight is stored inputs first, see `layouts`."""
    if not layer.inputs_first or isinstance(structure, Unstructured):
        return structure.drop_and_grow(layer.mask, drop_score, grow_score, n_update, budget)
    mask, drop_score, grow_score = (rows_are_units(tensor, True) for tensor in (layer.mask, drop_score, grow_score))
    return rows_are_units(structure.drop_and_grow(mask, drop_score, grow_score, n_update, budget), True)


def _sparse(shapes: Shapes, sparsities: Mapping[str, float]) -> list[str]:
    """Layers that are to be sparse, and can have rows: vectors, such as biases, stay dense."""
    return [name for name, sparsity in sparsities.items() if sparsity > 0 and len(shapes[name]) > 1]


def _survivors(mask: Tensor, drop_score: Tensor, n_drop: int) -> Tensor:
    """Mask without its ``n_drop`` lowest-scored connections."""
    kept = mask.reshape(-1).clone()
    kept[smallest(drop_score, n_drop, mask)] = False
    return kept.view(mask.shape)


def _random_rows(n_rows: int, length: int, n_active: int, generator: torch.Generator) -> Tensor:
    score = torch.rand(n_rows, length, generator=generator)
    return largest_per_row(score, torch.full((n_rows,), n_active), torch.ones_like(score, dtype=torch.bool))


def _groups(tensor: Tensor, m: int) -> Tensor:
    """One row for every ``m`` consecutive inputs."""
    return tensor.movedim(1, -1).reshape(-1, m)


def _from_groups(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(like.movedim(1, -1).shape).movedim(-1, 1).contiguous()
