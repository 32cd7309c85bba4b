"""Random sparse weights, and comparison of a sparse layer with the dense one in float64."""

import torch
from torch import Tensor

from rigl_lightning.kernels import SparsePattern, available

SPARSE_TIERS = available()[:-1]


def sparse_weight(*shape, density=0.3):
    """A weight with random active connections, its mask and its pattern."""
    mask = torch.rand(shape) < density
    weight = (torch.randn(shape) * mask).requires_grad_()
    return weight, mask, SparsePattern.from_mask(mask)


def compare(sparse, dense, inputs, masks, dense_grad=False):
    """Assert equal results and gradients of two functions of the same tensors.

    Args:
        sparse: The function under test.
        dense: The same with torch's dense operators; called with float64 inputs.
        inputs: Tensors with gradients, or None.
        masks: By position among the inputs, the mask of a weight, which its gradient must have too.
        dense_grad: The gradients of weights are not masked.
    """
    exact = [t.detach().double().contiguous().requires_grad_() if t is not None else None for t in inputs]
    outs, references = _tuple(sparse(*inputs)), _tuple(dense(*exact))
    grads = [torch.randn_like(out) for out in outs]
    given = [t for t in inputs if t is not None]
    found = torch.autograd.grad(outs, given, grads)
    expected = torch.autograd.grad(references, [t for t in exact if t is not None], [g.double() for g in grads])
    masks = [mask for t, mask in zip(inputs, masks, strict=True) if t is not None]
    for out, reference in zip(outs, references, strict=True):
        close(out, reference)
    for grad, reference, mask in zip(found, expected, masks, strict=True):
        close(grad, reference if mask is None or dense_grad else reference * mask)
        if mask is not None and not dense_grad:
            assert not grad[~mask].any()


def close(found, expected):
    """Equal to the rounding of sums in float32, or of float64."""
    tolerance = 2e-5 if found.dtype == torch.float32 else 1e-11
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


def _tuple(value):
    if isinstance(value, Tensor):
        return (value,)
    return tuple(t for part in value for t in (part if isinstance(part, tuple) else (part,)))
