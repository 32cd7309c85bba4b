"""Mask files: masks out of what training left on disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rigl_lightning.base.errors import MissingFileError, SettingError
from rigl_lightning.base.files import fingerprint, is_file
from rigl_lightning.base.loading import load_plain
from rigl_lightning.sparsity.files.foreign import find_foreign_masks, fit_to_names
from rigl_lightning.sparsity.names import same_tensors
from rigl_lightning.sparsity.packed_masks import pack_mask, unpack_mask

_REMEDY = "Set `checkpoint` of the algorithm."
_OBJECTS = (
    "Of objects of another package save the masks alone: {parameter name: mask}, or of rigl-torch {'backward_masks': "
    "scheduler.backward_masks}."
)


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Masks as plain tensors and numbers for a checkpoint: name -> {"shape", "bits"}, one bit a connection."""
    return {name: {"shape": list(mask.shape), "bits": pack_mask(mask)} for name, mask in masks.items()}


def unpack_masks(packed: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Inverse of `pack_masks`: boolean CPU tensors by name."""
    return {name: unpack_mask(entry["bits"], entry["shape"]) for name, entry in packed.items()}


def check_fit(found: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]], remedy: str) -> None:
    """Refuse masks of other layers or shapes than the model's.

    Args:
        found: Shapes of the masks of a file, by layer name.
        shapes: Shape of each sparse layer of the model, by name.
        remedy: Last sentence of the message: what to set.

    Raises:
        ValueError: Naming the first layer that differs.
    """
    expected = {name: tuple(shape) for name, shape in shapes.items()}
    got = {name: tuple(shape) for name, shape in found.items()}
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        raise SettingError(
            f"Expected the checkpoint's masks to fit the model, but layer {wrong[0]!r} has shape "
            f"{expected.get(wrong[0])} in the model and {got.get(wrong[0])} in the checkpoint "
            f"({len(wrong)} layers differ). {remedy}"
        )


def weight_checksum(weight: Tensor) -> int:
    """CRC-32 of a layer's weights in row-major order, half precision as float32: equal weights, equal sums.

    >>> weight_checksum(torch.zeros(2, 2)) == weight_checksum(torch.zeros(4, dtype=torch.bfloat16))
    True
    """
    weight = weight.detach().cpu()
    numbers = weight if weight.dtype == torch.float64 else weight.float()
    return zlib.crc32(numbers.contiguous().view(-1).view(torch.uint8).numpy().data)


def read_masks(checkpoint: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Tensor]:
    """Masks of a Lightning checkpoint, of a saved `Sparsifier.state_dict`, or of another package, see `foreign`.

    Args:
        checkpoint: The file; errors as in `read_state`.
        shapes: Shape of each sparse layer of the model, by name: needed for masks under other names (of a wrapped
            module, of another package) or without any.
    """
    state = read_state(checkpoint)
    masks = unpack_masks(state["masks"]) if "masks" in state else state["foreign"]
    return fit_to_names(masks, {} if shapes is None else shapes)


def read_initial_weights(checkpoint: str | Path, names: Iterable[str]) -> dict[str, int]:
    """`weight_checksum` of each sparse layer as the run began; empty if an older version of this package saved it.

    Args:
        checkpoint: The file; errors as in `read_state`.
        names: Those of the sparse layers, for files of a wrapped module.
    """
    found = read_state(checkpoint).get("initial_weights", {})
    renamed = same_tensors(found, names) or {}
    return {renamed.get(name, name): checksum for name, checksum in found.items()}


def read_state(checkpoint: str | Path) -> Mapping[str, Any]:
    """What `Sparsifier.state_dict` left in a Lightning checkpoint, or in a file of its own. Not to be changed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds no masks, those of several callbacks, or objects other than tensors and
            numbers.
    """
    if not is_file(checkpoint):
        raise MissingFileError(f"Expected a checkpoint at {checkpoint}, found no such file. {_REMEDY}")
    return _read_state(str(checkpoint), fingerprint(checkpoint))


@lru_cache(maxsize=2)  # an algorithm that starts from a file is asked for its layer sparsities again and again
def _read_state(checkpoint: str, fingerprint: str) -> Mapping[str, Any]:
    content = load_plain(checkpoint, "tensors and plain numbers", f"{_REMEDY} {_OBJECTS}")
    candidates = [content, *content.get("callbacks", {}).values()] if isinstance(content, Mapping) else []
    states = [state for state in candidates if isinstance(state, Mapping) and _is_own(state.get("masks"))]
    if len(states) == 1:  # without the weights of a whole checkpoint
        return {key: states[0][key] for key in ("masks", "initial_weights") if key in states[0]}
    foreign = None if states else find_foreign_masks(content)
    if foreign is None:
        raise SettingError(
            f"Expected the masks of one SparseTrainingCallback in {checkpoint}, found {len(states)}. "
            "Was the run trained with the callback? A checkpoint of weights alone (`save_weights_only=True`) has none: "
            "load it, and use FixedMasks.from_zeros(model). Masks of other packages may be tensors of zeros and ones "
            "by parameter name, a state_dict of torch.nn.utils.prune, or a list `backward_masks` (rigl-torch)."
        )
    return {"foreign": foreign}


def _is_own(masks: Any) -> bool:
    """Whether these are masks as `pack_masks` leaves them; somebody else may have used the key, too."""
    return isinstance(masks, Mapping) and all(
        isinstance(entry, Mapping) and "bits" in entry for entry in masks.values()
    )
