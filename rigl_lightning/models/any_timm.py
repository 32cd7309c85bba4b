"""Any network of timm by its name."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn


def timm_model(
    name: str, num_classes: int = 1000, pretrained: bool = False, options: dict[str, Any] | None = None
) -> nn.Module:
    """Images (N, 3, H, W) to logits (N, num_classes): a network of timm.

    Args:
        name: Its name in timm, such as ``efficientnet_b0``; ``timm.list_models()`` has all.
        num_classes: Number of logits.
        pretrained: Whether timm may fetch trained weights.
        options: More arguments of timm's ``create_model``, for example ``{drop_path_rate: 0.1}``.

    Raises:
        ValueError: If timm has no such network.

    >>> timm_model("resnet10t", num_classes=10).get_classifier().out_features
    10
    """
    import timm

    if not timm.is_model(name.split("/")[-1].split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Expected `name` to be a network of timm, got {name!r}.{hint} Set `name` of timm_model.")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **(options or {}))
