"""One ranking of the connections of all layers together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rigl_lightning.sparsity.algorithms.base import Masks
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.selection import below_infinity


def topk_of_all_layers(
    ranked: Mapping[str, Tensor], n_active: int, candidates: Mapping[str, Tensor] | None = None
) -> Masks:
    """Masks of the ``n_active`` largest scores of all layers; each layer keeps its own largest at least.

    Args:
        ranked: Scores by layer.
        n_active: Active connections of all layers together, at least the number of layers.
        candidates: Boolean masks by layer: connections that may become active; None for all.
    """
    allowed = {name: None if candidates is None else candidates[name] for name in ranked}
    flat = {name: below_infinity(score).reshape(-1) for name, score in ranked.items()}
    for name, score in ranked.items():
        flat[name][topk_mask(score, 1, allowed[name]).reshape(-1)] = torch.inf
    together = None if candidates is None else torch.cat([candidates[name].reshape(-1) for name in ranked])
    kept = topk_mask(torch.cat(list(flat.values())), n_active, together)
    parts = kept.split([score.numel() for score in flat.values()])
    return {name: part.view(ranked[name].shape) for name, part in zip(ranked, parts, strict=True)}
