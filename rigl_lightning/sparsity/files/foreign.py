"""Masks of other packages: found in what their users save, as boolean tensors by layer name.

Three forms are understood: a list ``backward_masks`` in the order of the layers (the scheduler of rigl-torch) and
tensors ``<name>_mask`` (`torch.nn.utils.prune`), both at the top of the file or one level below
(``{"model": ..., "scheduler": ...}``), and tensors of zeros and ones by parameter name, which are the file or are its
``masks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.names import clean_name, same_tensors

OrderedMasks = list[Tensor | None]
"""Masks in the order of the layers; None for a layer that is dense."""


def find_foreign_masks(content: Any) -> dict[str, Tensor] | OrderedMasks | None:
    """Masks in what ``torch.load`` returned, or None if there are none.

    Raises:
        ValueError: If what is named as a mask has other values than 0 and 1.

    >>> find_foreign_masks({"model": {"fc.weight_orig": torch.ones(2), "fc.weight_mask": torch.tensor([0.0, 1.0])}})
    {'fc.weight': tensor([False,  True])}
    """
    if not isinstance(content, Mapping):
        return None
    places = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    for place in places:
        if isinstance(place.get("backward_masks"), list):
            masks = place["backward_masks"]
            return [None if mask is None else _as_mask(mask, f"backward_masks[{i}]") for i, mask in enumerate(masks)]
    for place in places:
        named = {key.removesuffix("_mask"): value for key, value in place.items() if _is_mask_key(key, value)}
        if len(named) < sum(isinstance(value, Tensor) for value in place.values()):
            # Of a whole network, where a buffer such as `attn_mask` masks no weight.
            named = {name: mask for name, mask in named.items() if name in place or f"{name}_orig" in place}
        if named:
            return {_plain_name(name): _as_mask(mask, f"{name}_mask") for name, mask in named.items()}
    for whole in (content.get("masks"), content):
        if isinstance(whole, Mapping) and whole and all(isinstance(value, Tensor) for value in whole.values()):
            return {_plain_name(name): _as_mask(mask, name) for name, mask in whole.items()}
    return None


def fit_to_names(masks: Mapping[str, Tensor] | OrderedMasks, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Masks by the names that the model has.

    Names may differ as `same_tensors` says, as when the network is an attribute of a LightningModule. Masks without
    names go to the sparse layers by order, if number and shapes agree.

    Raises:
        ValueError: If masks without names are of another number, or one is of another shape than its layer.

    >>> fit_to_names({"fc.weight": torch.tensor([True])}, {"model.fc.weight": (1,)})
    {'model.fc.weight': tensor([True])}
    """
    if isinstance(masks, Mapping):
        names = same_tensors(masks, shapes) or {}
        return {names.get(name, name): mask for name, mask in masks.items()}
    remedy = "Set include and exclude so that the sparse layers are those of that run, in order."
    if len(masks) != len(shapes):
        raise SettingError(
            f"Expected a mask for each of the {len(shapes)} sparse layers, found {len(masks)}, without names. {remedy}"
        )
    by_name = {}
    for i, ((name, shape), mask) in enumerate(zip(shapes.items(), masks, strict=True)):
        by_name[name] = torch.ones(*shape, dtype=torch.bool) if mask is None else mask
        if tuple(by_name[name].shape) != tuple(shape):
            raise SettingError(
                f"Expected mask {i}, without a name, to fit layer {name!r} of shape {tuple(shape)}, got shape "
                f"{tuple(by_name[name].shape)}. {remedy}"
            )
    return by_name


def _plain_name(name: str) -> str:
    return clean_name(name).removeprefix("module.")  # DistributedDataParallel's; a model's own comes back as a prefix


def _is_mask_key(key: Any, value: Any) -> bool:
    return isinstance(key, str) and key.endswith("_mask") and isinstance(value, Tensor)


def _as_mask(tensor: Any, name: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise SettingError(f"Expected a tensor as mask {name!r}, got {type(tensor).__name__}.")
    mask = tensor.bool()
    if not torch.equal(mask.to(tensor.dtype), tensor):
        raise SettingError(
            f"Expected a mask of zeros and ones in {name!r}, got other values. Masks are not taken from the weights "
            "themselves, where an active connection may be zero: save {name: weight != 0} if that is what you want."
        )
    return mask
