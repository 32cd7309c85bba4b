"""Algorithms whose masks never change: dense, random, or taken from an earlier run."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.algorithms.base import GeneratorOf, Masks, SparseAlgorithm
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes
from rigl_lightning.sparsity.files.masks import check_fit, pack_masks, read_masks, unpack_masks
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.structures import Structure, Unstructured


@dataclass(frozen=True)
class Dense(SparseAlgorithm):
    """No sparsity: the dense baseline through the same code."""

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """All zero."""
        return dict.fromkeys(shapes, 0.0)


@dataclass(frozen=True)
class Static(SparseAlgorithm):
    """Random masks that never change (paper, section 4.1.1, "Static").

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: How the sparsity is shared among the layers.
        structure: Which connections of a layer must be active together, or in which number.
    """

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    structure: Structure = field(default_factory=Unstructured)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the distribution and the structure, from the first step to the last."""
        return self.structure.layer_sparsities(shapes, self.distribution(shapes, self.sparsity))


@dataclass(frozen=True)
class FixedMasks(SparseAlgorithm):
    """The masks of an earlier run, unchanged: fine-tuning a sparse network. For lottery tickets see `LotteryTicket`.

    Attributes:
        checkpoint: Lightning checkpoint of a run with `SparseTrainingCallback`, or a `Sparsifier.state_dict` saved by
            ``torch.save``. A file of ``torch.save`` may also hold the masks of another package: tensors of zeros and
            ones by parameter name, a state_dict of `torch.nn.utils.prune`, or the state of rigl-torch's scheduler,
            whose masks have no names and are taken in the order of the layers.
    """

    checkpoint: str | Path
    masks: ClassVar[Mapping[str, Any] | None] = None
    """Packed masks that were given and not read, see `from_zeros`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.checkpoint, str | Path):
            raise SettingError(
                f"Expected `checkpoint` to be a file, got a {type(self.checkpoint).__name__}. Masks by name can be "
                "written by torch.save; FixedMasks.from_zeros(model) takes the zeros of a network."
            )

    @classmethod
    def from_zeros(
        cls,
        module: nn.Module,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> "FixedMasks":
        """Masks that keep the zeros of a network's weights: fine-tuning one that is pruned already.

        A resumed run has to be given the same zeros, or any network of the same masks.

        Args:
            module: The pruned network.
            include: See `select_parameters`; give the same ones to the training.
            exclude: The same.

        Raises:
            ValueError: If no weight is zero.
        """
        masks = {name: weight.detach() != 0 for name, weight in select_parameters(module, include, exclude).items()}
        if all(bool(mask.all()) for mask in masks.values()):
            raise SettingError(
                f"Expected a pruned network, got one without a zero in {', '.join(masks)}. Load the pruned weights, "
                "or remove the pruning of torch.nn.utils.prune (prune.remove), before from_zeros."
            )
        checksum = zlib.crc32(b"".join(mask.cpu().numpy().tobytes() for mask in masks.values()))
        fixed = cls(f"zeros of {len(masks)} layers, CRC-32 {checksum:08x}")
        object.__setattr__(fixed, "masks", pack_masks(masks))
        return fixed

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the checkpoint's masks."""
        masks = self.initial_masks(shapes, lambda name: torch.Generator())
        return {name: 1 - count_active(mask) / mask.numel() for name, mask in masks.items()}

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks of the checkpoint.

        Raises:
            ValueError: If the checkpoint has other layers or shapes.
        """
        masks = read_masks(self.checkpoint, shapes) if self.masks is None else unpack_masks(self.masks)
        remedy = (
            "Set `checkpoint` of the algorithm, or `include` and `exclude` of SparseTrainingCallback as in that run."
        )
        if shapes.keys() < masks.keys():
            remedy += (
                " To take the masks of some layers only, save those: rigl_lightning.sparsity.files.masks.read_masks "
                "reads the file, torch.save({name: mask, ...}, file) writes one."
            )
        check_fit({name: mask.shape for name, mask in masks.items()}, shapes, remedy)
        return masks
