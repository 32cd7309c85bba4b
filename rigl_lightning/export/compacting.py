"""compact: a trained network as one that computes with its active connections only, for inference on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError, SparseTrainingWarning
from rigl_lightning.export.called_layers import call_layers, called_layers
from rigl_lightning.export.example import Example, example_of
from rigl_lightning.export.folded import FoldedConv2d
from rigl_lightning.export.graph import FoldedLinear, fuse, is_plain
from rigl_lightning.export.layers import CompactConv2d, CompactLayer, CompactLinear
from rigl_lightning.export.recurrent_layers import CompactRecurrent
from rigl_lightning.export.timings import Timing, timings
from rigl_lightning.kernels.tiers import available

Compute = Literal["auto", "sparse", "dense"]
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
"""Of the largest output; a wrong trace is far off."""
_FEW_CHANNELS = 4


def compact(
    module: nn.Module,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any] | None = None,
    *,
    compute: Compute = "auto",
    fuse_layers: bool = True,
) -> nn.Module:
    """A copy of a trained module for inference, whose sparse layers hold values and indices only.

    Linear, Conv2d, GRU and LSTM layers with exact zeros are replaced. Batch norms are folded into the convolution
    before them, and an addition and a ReLU that follow are done in the same pass. The outputs are those of
    ``module.eval()`` to float32 rounding, except that an infinite or undefined input does not reach outputs to which no
    connection leads. The module itself is not changed, and may be on any device; the copy is on the CPU.

    Args:
        module: Any module; weights of inactive connections are exactly zero, as `SparseTrainingCallback` leaves them.
        example_inputs: What the module is called with: a tensor, a tuple of arguments or a mapping of arguments by
            name; by default its ``example_input_array`` (Lightning), if it has one. Its batch size is the one that is
            tuned for.
        compute: ``auto`` keeps a layer dense where that is faster on the example; ``sparse`` makes every layer with
            zeros sparse; ``dense`` only folds and fuses.
        fuse_layers: Fold and fuse. The fused part becomes a `torch.fx.GraphModule`, which keeps the names of
            submodules but not other methods or attributes of the class. False keeps every class.

    Raises:
        ValueError: If an example is needed and there is none, or ``compute`` is unknown.
    """
    if compute not in get_args(Compute):
        raise SettingError(f"Expected `compute` to be one of {get_args(Compute)}, got {compute!r}.")
    example = example_of(module, example_inputs)
    if compute == "auto" and example is None:
        raise SettingError(
            "Expected an example to time the layers on, got none. Give `example_inputs`, set the module's "
            "`example_input_array`, or choose compute='sparse'."
        )
    copy = deepcopy(module).cpu().eval().requires_grad_(False)
    # What torch.compile has wrapped would go on to call the layers of before.
    copy = _swapped(copy, {m: inner for m in copy.modules() if (inner := m._modules.get("_orig_mod")) is not None})
    example = None if example is None else example.map(Tensor.cpu)
    if fuse_layers:
        copy = _checked_fusion(copy, example)
    if compute == "dense":
        return copy
    sparse = {layer: made for layer in called_layers(copy) if (made := _sparse(layer, compute)) is not None}
    if compute == "auto":
        assert example is not None
        found = timings(copy, sparse, example)
        sparse = {layer: made for layer, made in sparse.items() if _pays(found.get(layer))}
    return call_layers(_swapped(copy, sparse), sparse.values())


def layers_of(model: nn.Module) -> dict[str, CompactLayer]:
    """The compact layers of a network by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, CompactLayer)}


def _checked_fusion(module: nn.Module, example: Example | None) -> nn.Module:
    """The fused network, or the one that was given if the two do not agree on the example."""
    fused = fuse(deepcopy(module))
    if example is None:
        return fused
    # Norms of dead channels magnify rounding by hundreds, so float64 tells a wrong trace from a correct one best.
    dtype = torch.float64 if _runs_in(torch.float64, module, example) else torch.float32
    expected = _outputs(module, example, dtype)
    tolerance = _TOLERANCE[dtype]
    try:
        if not expected:
            raise SettingError("it returns no tensors to compare")
        found = _outputs(fused, example, dtype)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * _largest(expected))
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        warnings.warn(
            f"Layers are not fused: torch.fx does not see all that this network does ({first_line}).",
            stacklevel=3,
            category=SparseTrainingWarning,
        )
        return module
    return fused


def _runs_in(dtype: torch.dtype, module: nn.Module, example: Example) -> bool:
    """Not if the network makes tensors of another precision by itself, or asks for one."""
    try:
        _outputs(module, example, dtype)
    except Exception:  # whatever a forward makes of a precision that it does not expect
        return False
    return True


@torch.no_grad()
def _outputs(module: nn.Module, example: Example, dtype: torch.dtype) -> list[Any]:
    """Tensors and numbers that a copy of the network in this precision returns for a copy of the example.

    Not what it also returns, such as the cache of keys and values of a transformer.
    """

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()

    leaves = torch.utils._pytree.tree_leaves(example.map(cast).call(deepcopy(module).to(dtype)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor | int | float | complex)]


def _largest(outputs: list[Any]) -> float:
    tensors = [t for t in outputs if isinstance(t, Tensor) and t.is_floating_point()]
    largest = [t[t.isfinite()].abs().max().item() for t in tensors if t.isfinite().any()]
    return max(largest, default=1.0)


def _sparse(layer: nn.Module, compute: Compute) -> nn.Module | None:
    """What would replace a layer; None for one that stays."""
    if isinstance(layer, FoldedConv2d | nn.Conv2d):
        if not isinstance(layer, FoldedConv2d) and not is_plain(layer, nn.Conv2d):
            return None
        folded = layer if isinstance(layer, FoldedConv2d) else FoldedConv2d(layer)
        # Depthwise convolutions and stems are dense, but a sparse matrix, or so small a one, for the kernel.
        small = compute == "auto" and folded.weight.shape[1] <= _FEW_CHANNELS and _usable(folded.weight)
        return CompactConv2d(folded) if _fast() and (small or _has_zeros(folded.weight)) else None
    if isinstance(layer, FoldedLinear) or is_plain(layer, nn.Linear):
        bounds = {"bounds": layer.bounds} if isinstance(layer, FoldedLinear) else {}
        return CompactLinear(layer, **bounds) if _has_zeros(layer.weight) else None  # type: ignore[arg-type]
    if is_plain(layer, nn.GRU) or (is_plain(layer, nn.LSTM) and not getattr(layer, "proj_size", 0)):
        zeros = any(_has_zeros(p) for name, p in layer.named_parameters() if name.startswith("weight"))
        return CompactRecurrent(layer) if _fast() and zeros else None  # type: ignore[arg-type]
    return None


def _fast() -> bool:
    """Whether numba is there: without it only products of plain matrices gain."""
    return available()[0] == "fast"


def _has_zeros(weight: Any) -> bool:
    return _usable(weight) and bool((weight == 0).any())


def _usable(weight: Any) -> bool:
    """Whether the kernels take a weight."""
    if not isinstance(weight, Tensor) or weight.is_nested or weight.layout is not torch.strided:
        return False
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() > 0


def _pays(timing: Timing | None) -> bool:
    """Whether sparse is faster; a layer that the example does not reach stays dense."""
    return timing is not None and timing.sparse < timing.dense


def _swapped(model: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with layers replaced wherever they occur."""
    if model in layers:
        return layers[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in layers:
                parent._modules[name] = layers[child]
    return model
