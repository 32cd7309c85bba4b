"""Which layers are called: torch's transformer modules read the weights of some themselves, or do all at once."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def called_layers(model: nn.Module) -> list[nn.Module]:
    """Modules that may be replaced, each once: all but those whose weights another module reads itself.

    Attention does, and an encoder that gives its layers nested tensors, which no replaced layer takes.
    """
    readers = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention) or _makes_nested_tensors(m)]
    inside = {id(m) for reader in readers for m in reader.modules()}
    return [layer for layer in model.modules() if id(layer) not in inside]


def _makes_nested_tensors(module: nn.Module) -> bool:
    return isinstance(module, nn.TransformerEncoder) and bool(module.use_nested_tensor)


def call_layers(model: nn.Module, replaced: Iterable[nn.Module]) -> nn.Module:
    """Have torch's encoder layers call those of theirs that are ``replaced``.

    Their one operator for all would read the weights: dense ones, made at every call, or a layout it does not know.
    """
    ids = {id(layer) for layer in replaced}
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and any(id(m) in ids for m in layer.modules()):
            layer.activation_relu_or_gelu = 0  # "no activation that the operator knows"
    return model
