"""Compact files: a ``state_dict`` whose zeros take almost no room, in a form that runs no code when it is read."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import replacing, size
from rigl_lightning.base.loading import load_plain
from rigl_lightning.export.encoding import decode, encode
from rigl_lightning.export.layers import CompactConv2d, CompactLayer, CompactLinear
from rigl_lightning.export.recurrent_layers import CompactRecurrent
from rigl_lightning.sparsity.costs.sizes import network_bytes
from rigl_lightning.sparsity.names import clean_name

_FORMAT = "rigl_lightning.compact.1"
_FORMAT_WITH_VALUES = "rigl_lightning.compact.2"
"""Of files with an entry that is no plain tensor; readers of the first form cannot read those."""
_REMEDY = "Give a file of `save_compact`."


def save_compact(
    module: nn.Module | Mapping[str, Any], path: str | Path, masks: Mapping[str, Tensor] | None = None
) -> int:
    """Write the weights of a trained module; zeros are left out.

    Values keep their dtype. Where the active connections are takes one bit a connection, as in the paper's sizes
    (appendix "Calculation of FLOPs"), or less. Entries of other kinds (quantized and sparse tensors, the extra state of
    a module) are kept as they are. A file that was there is replaced when the new one is whole.

    Args:
        module: The module that was trained, or its ``state_dict``.
        path: The file, in a folder that exists, or an address of fsspec.
        masks: Active connections by name, kept with the weights; a tensor without one keeps what is not exactly zero.

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: If the module comes from `compact`, masks do not fit it or hide a weight that is not zero, or an
            entry could not be read again without running code.
        OSError: If the disk is full.
    """
    if isinstance(module, nn.Module) and any(isinstance(m, CompactLayer) for m in module.modules()):
        raise SettingError(
            "Expected the module that was trained, got one that `compact` made. Save the former; `compact` makes the "
            "latter again in seconds, for the machine it runs on."
        )
    state = module.state_dict() if isinstance(module, nn.Module) else module
    state = {clean_name(name): value for name, value in state.items()}
    masks = {} if masks is None else masks
    unknown = sorted(set(masks) - set(state))
    if unknown:
        raise SettingError(
            f"Expected masks of the module's tensors, got one for {unknown[0]!r}. Give masks of this module."
        )
    pools: dict[str, list[Tensor]] = {}
    first: dict[Any, str] = {}
    in_order = sorted(state.items(), key=lambda item: item[0] not in masks)  # it may be of any name of a tied tensor
    entries = [_entry(name, value, masks.get(name), pools, first) for name, value in in_order]
    content = {
        "format": _FORMAT_WITH_VALUES if any("value" in entry for entry in entries) else _FORMAT,
        "entries": entries,
        "pools": {key: torch.cat(parts).view(_dtype(key)) for key, parts in pools.items()},
    }
    with replacing(path) as stream:
        torch.save(content, stream)
    return size(path)


def read_compact(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The dense ``state_dict`` of a compact file, and the masks of its sparse tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a compact file.
    """
    content = load_plain(path, "a compact file", _REMEDY)
    if not isinstance(content, dict) or content.get("format") not in (_FORMAT, _FORMAT_WITH_VALUES):
        raise SettingError(f"Expected a compact file at {path}, got other content. {_REMEDY}")
    pools = _Pools(content["pools"])
    state: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for entry in content["entries"]:
        name = entry["name"]
        if "same" in entry:
            state[name] = state[entry["same"]]
        elif "value" in entry:
            state[name] = entry["value"]
        elif "code" in entry:
            masks[name] = decode(entry["code"], pools.take("torch.uint8", entry["bytes"]), entry["shape"])
            state[name] = _scattered(masks[name], pools.take(entry["dtype"], entry["values"]))
        else:
            state[name] = pools.take(entry["dtype"], entry["values"]).view(entry["shape"])
    return state, masks


def load_compact(path: str | Path, module: nn.Module) -> dict[str, Tensor]:
    """Load a compact file into the plain dense module (``strict=True``); returns the masks of its sparse tensors.

    Errors as `read_compact`; torch's if the file does not fit the module.
    """
    state, masks = read_compact(path)
    names = {clean_name(name): name for name in module.state_dict()}
    module.load_state_dict({names.get(name, name): tensor for name, tensor in state.items()})
    return masks


def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` with dense weights of a network from `compact`.

    It loads (``strict=True``) into the plain module where nothing was folded (``fuse_layers=False``), and into
    ``compact(module, compute="dense")`` otherwise.
    """
    state = {}
    inside: list[str] = []
    for name, layer in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        if isinstance(layer, CompactLinear | CompactConv2d):
            state[f"{prefix}weight"] = layer.weight
            if layer.bias is not None:
                state[f"{prefix}bias"] = layer.bias
            inside.append(prefix)
        elif isinstance(layer, CompactRecurrent):
            state.update({f"{prefix}{key}": tensor for key, tensor in layer.named_weights().items()})
            inside.append(prefix)
    rest = {key: t for key, t in model.state_dict().items() if not any(key.startswith(prefix) for prefix in inside)}
    return {**rest, **state}


def paper_bytes(state: Mapping[str, Any], masks: Mapping[str, Tensor]) -> float:
    """Size by the paper's formula: values, a bit for each connection of a sparse layer, one bias for each output.

    Args:
        state: A ``state_dict``; its tensors of rank 2 and above count as weights, a tied one once.
        masks: Of the sparse ones.
    """
    tensors = each_once(state, masks)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.ndim >= 2}
    sparsities = {name: 1 - mask.float().mean().item() for name, mask in masks.items()}
    vectors = tensors.keys() - shapes.keys()  # sparse biases, which the formula counts as dense
    return network_bytes(shapes, {name: s for name, s in sparsities.items() if s > 0 and name not in vectors})


def each_once(state: Mapping[str, Any], masks: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors of a ``state_dict`` by name; a tied one under its first name, or under the one that has a mask."""
    found: dict[Any, tuple[str, Tensor]] = {}
    named = {clean_name(name): value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in sorted(named.items(), key=lambda item: item[0] not in masks):
        place = (value.data_ptr(), value.shape, value.stride()) if _is_plain(value) and value.numel() else name
        found.setdefault(place, (name, value))
    return dict(found.values())


class _Pools:
    """Tensors of one dtype one after the other, in the order in which they are taken."""

    def __init__(self, pools: Mapping[str, Tensor]) -> None:
        self._pools, self._taken = pools, dict.fromkeys(pools, 0)

    def take(self, dtype: str, count: int) -> Tensor:
        if count == 0:
            return torch.empty(0, dtype=_dtype(dtype))
        start = self._taken.get(dtype, 0)
        if dtype not in self._pools or start + count > self._pools[dtype].numel():
            raise SettingError(f"Expected {count} more numbers of {dtype}, found fewer. The file is damaged.")
        self._taken[dtype] = start + count
        return self._pools[dtype][start : start + count].clone()


def _entry(
    name: str, value: Any, mask: Tensor | None, pools: dict[str, list[Tensor]], first: dict[Any, str]
) -> dict[str, Any]:
    if not _is_plain(value):
        if mask is not None:
            raise SettingError(f"Expected a dense tensor for the mask of {name!r}, got another. Give no mask of it.")
        return {"name": name, "value": _readable(name, value)}
    value = value.as_subclass(Tensor)
    # By the tensor itself: a copy on the CPU is freed, and the next copy may lie at the same address.
    layout = (tuple(value.shape), value.stride(), value.dtype, value.is_conj(), value.is_neg())
    place = (value.device, value.data_ptr(), layout)
    entry: dict[str, Any] = {"name": name, "shape": list(value.shape)}
    if value.numel() and first.setdefault(place, name) != name:
        return {**entry, "same": first[place]}
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    entry["dtype"] = str(tensor.dtype)
    active = _active(name, tensor, mask)
    if active is not None:
        code, data = encode(active)
        values = _bytes_if_small(tensor)[active]
        if mask is not None or values.nbytes + data.nbytes < tensor.nbytes:
            pools.setdefault("torch.uint8", []).append(data)
            pools.setdefault(str(tensor.dtype), []).append(values)
            return {**entry, "code": code, "bytes": data.numel(), "values": values.numel()}
    pools.setdefault(str(tensor.dtype), []).append(_bytes_if_small(tensor).reshape(-1))
    return {**entry, "values": tensor.numel()}


def _is_plain(value: Any) -> bool:
    """Whether a value is numbers in memory that a compact file takes as they are."""
    if not isinstance(value, Tensor) or is_lazy(value) or is_traceable_wrapper_subclass(value) or value.is_meta:
        return False
    return value.layout is torch.strided and not value.is_quantized and not value.is_nested


def _readable(name: str, value: Any) -> Any:
    """The value, if a file with it can be read again without running code.

    Raises:
        ValueError: If not, naming the entry.
    """
    if isinstance(value, Tensor) and (is_lazy(value) or value.is_meta):
        raise SettingError(f"Expected numbers in {name!r}, got a tensor without. Load the weights first.")
    stream = io.BytesIO()
    try:
        torch.save(value, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except Exception as error:  # of pickle or torch, whatever the object is
        raise SettingError(
            f"Expected tensors and plain values, got {name!r} with {type(value).__name__}, which could not be read "
            "again without running code. Leave it out of the state_dict, or save it in another file."
        ) from error
    return value


def _bytes_if_small(tensor: Tensor) -> Tensor:
    """A tensor of one byte a number as bytes: for float8, torch has next to no functions."""
    return tensor.contiguous().view(torch.uint8) if tensor.element_size() == 1 else tensor


def _scattered(mask: Tensor, values: Tensor) -> Tensor:
    """Zeros of the mask's shape with the values at its active connections."""
    source = _bytes_if_small(values)
    return torch.zeros(mask.shape, dtype=source.dtype).masked_scatter_(mask, source).view(values.dtype)


def _active(name: str, tensor: Tensor, mask: Tensor | None) -> Tensor | None:
    """Connections to keep; None for a tensor that is no weight."""
    if mask is None:
        return tensor != 0 if tensor.ndim >= 2 and tensor.is_floating_point() else None
    mask = mask.cpu()
    if mask.shape != tensor.shape:
        raise SettingError(
            f"Expected a mask {tuple(tensor.shape)} for {name!r}, got {tuple(mask.shape)}. Give masks of this module."
        )
    if bool(((tensor != 0) & ~mask).any()):
        raise SettingError(
            f"Expected zeros outside the mask of {name!r}, found other weights. Apply the masks to the module first."
        )
    return mask


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise SettingError(f"Expected a dtype of torch, got {name!r}. Was the file written by a newer version?")
    return dtype
