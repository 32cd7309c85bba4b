"""What every tier does with torch's dense operators: layers it does not cover, and the true dense gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rigl_lightning.kernels.pattern import SparsePattern


def masked_gradient(weight: Tensor, pattern: SparsePattern, dense_grad: bool) -> Tensor:
    """The weight itself, whose gradient is zero at inactive connections unless ``dense_grad``."""
    if dense_grad or not weight.requires_grad:
        return weight
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[pattern.positions.to(weight.device)] = True
    return torch.where(mask.view(weight.shape), weight, weight.detach())


def recorded_gradients(
    layer: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of a dense layer as part of the graph, for derivatives of a higher order (``create_graph=True``).

    Also for gradients that the kernels cannot read: tangents, and several at once (``is_grads_batched=True``).

    Args:
        layer: Function of ``inputs`` by torch's own operators.
        inputs: Tensors as the backward pass finds them, or None.
        needs: Which of them need a gradient.
        grads: Gradient of each result of the layer, None for zero.
    """
    # Aliases: an input may itself depend on a weight, and the way through it belongs to the layer before.
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        outs = layer(*own)
        outs = [outs] if isinstance(outs, Tensor) else list(outs)
        pairs = [(out, grad) for out, grad in zip(outs, grads, strict=True) if grad is not None and out.requires_grad]
        wanted = [tensor for tensor, need in zip(own, needs, strict=True) if need and tensor is not None]
        if not pairs or not wanted:
            return [None] * len(own)
        results, given = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(results, wanted, given, create_graph=keep_graph, allow_unused=True))
    return [next(found) if need and tensor is not None else None for tensor, need in zip(own, needs, strict=True)]
