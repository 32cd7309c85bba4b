"""Transposable N:M masks: n of m inputs of every unit and n of m units of every input, for both passes of training."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.distributions import Shapes
from rigl_lightning.sparsity.layouts import outputs_first
from rigl_lightning.sparsity.selection import smallest
from rigl_lightning.sparsity.structures import NM

_LARGEST = 4
"""Of m: there are 90 masks of a block for 2:4, and millions for 4:8."""
_LARGEST_SCORE = 1e300
"""Infinite scores count as much: a range that is infinite would make all others alike."""
_AT_ONCE = 1 << 15
"""Blocks whose masks are compared at a time."""


@dataclass(frozen=True)
class TransposableNM(NM):
    """Exactly ``n`` active connections in every row and every column of each block of ``m`` units and ``m`` inputs.

    The weight and its transpose are both N:M, so hardware can use the mask in the forward pass and for the gradient of
    the inputs (Hubara et al. 2021, arXiv 2102.08124). All masks of a block are compared, 90 for 2:4, as Hu et al. 2024
    (arXiv 2404.01847) do, so each choice is optimal. An update drops the lowest-scored connections of the layer. Of the
    masks that contain the others it takes the one whose new connections have the largest sum of grow scores.

    Attributes:
        n: Active connections of a row and of a column, in [1, m).
        m: Rows and columns of a block, 2 to 4. Units and inputs of a sparse layer must be multiples of it.

    >>> mask = TransposableNM(2, 4).random_mask((4, 8), 16, torch.Generator().manual_seed(0))
    >>> mask.view(4, 2, 4).sum(2).unique().tolist(), mask.view(4, 2, 4).sum(0).unique().tolist()
    ([2], [2])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m > _LARGEST:
            raise SettingError(
                f"Expected `m` of at most {_LARGEST} for a transposable structure, got {self.m}. "
                "Set `m` of TransposableNM."
            )

    def layer_sparsities(self, shapes: Shapes, sparsities: Mapping[str, float]) -> dict[str, float]:
        """``1 - n / m``, or 0 for a layer that is to be dense.

        Raises:
            ValueError: As `NM`, or if a layer's units are no multiple of m.
        """
        found = super().layer_sparsities(shapes, sparsities)
        for name, sparsity in found.items():
            units = outputs_first(shapes[name])[0]
            if sparsity > 0 and units % self.m:
                raise SettingError(
                    f"Expected the units of {name!r} to be a multiple of m={self.m} for {self}, got {units} of shape "
                    f"{tuple(shapes[name])}. Add the layer to `dense` of the distribution, or to "
                    "`exclude` of SparseTrainingCallback."
                )
        return found

    def random_mask(self, shape: Sequence[int], n_active: int, generator: torch.Generator) -> Tensor:
        """A random mask for each block; all True if the layer is dense."""
        dense = torch.ones(*shape, dtype=torch.bool)
        if n_active < dense.numel():
            masks = _masks(self.n, self.m)
            dense = self._joined(
                masks[torch.randint(len(masks), (dense.numel() // self.m**2,), generator=generator)], dense
            )
        return dense

    def drop_and_grow(
        self, mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_update: int, budget: int | None = None
    ) -> Tensor:
        """Drop in the layer, and take the best masks that hold what is left."""
        kept = mask.reshape(-1).clone()
        kept[smallest(drop_score, n_update, mask)] = False
        score = grow_score.double().clamp(-_LARGEST_SCORE, _LARGEST_SCORE)
        if bool(score.isnan().any()):
            raise SettingError("Expected scores without NaN.")
        low, high = score.aminmax()
        worth = (score - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
        # The mask of now holds all that is left, so one that does is found; none is worth more than that.
        worth = torch.where(kept.view(mask.shape), 2.0 * self.n * self.m, worth)
        return self._joined(_best(self._blocks(worth), _masks(self.n, self.m).to(mask.device)), mask)

    def _blocks(self, tensor: Tensor) -> Tensor:
        """One row for every block."""
        last = tensor.movedim((0, 1), (-2, -1))
        rows, columns = last.shape[-2] // self.m, last.shape[-1] // self.m
        cut = last.reshape(-1, rows, self.m, columns, self.m)
        return cut.transpose(2, 3).reshape(-1, self.m**2)

    def _joined(self, blocks: Tensor, like: Tensor) -> Tensor:
        shape = like.movedim((0, 1), (-2, -1)).shape
        cut = blocks.view(-1, shape[-2] // self.m, shape[-1] // self.m, self.m, self.m)
        return cut.transpose(2, 3).reshape(shape).movedim((-2, -1), (0, 1)).contiguous()


@cache
def _masks(n: int, m: int) -> Tensor:
    """All masks of a block, (masks, m · m), in a fixed order."""
    rows = [[column in chosen for column in range(m)] for chosen in itertools.combinations(range(m), n)]
    blocks = torch.tensor(list(itertools.product(rows, repeat=m)))
    return blocks[(blocks.sum(1) == n).all(1)].flatten(1)


def _best(worth: Tensor, masks: Tensor) -> Tensor:
    """Of each block the mask with the largest sum; the first of equals."""
    values = masks.double().t()
    return torch.cat([masks[(part @ values).argmax(1)] for part in worth.split(_AT_ONCE)])
