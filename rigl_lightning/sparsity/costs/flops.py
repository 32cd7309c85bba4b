"""FLOPs: what a network costs, by layer, from the sizes of its products and the density of its weights.

Two conventions, for a weight that takes part in n outputs, each a sum over v connections of which a fraction 1 - s is
active. Norms, pooling and losses count in neither (paper, appendix "Calculation of FLOPs").

- products: ``n · 2 v (1 - s)``. A multiply-accumulate is 2 FLOPs, and only products with weights count. The package
  reports this one; it is what `trace_flops` returns.
- products and outputs: ``n · (2 v (1 - s) + 1)``. The authors': v multiplications, v - 1 additions, one addition for
  the bias and one multiplication for the ReLU of each output, whether the layer has them or not (google-research,
  micronet_challenge/counting.py, as called by rigl/sparse_utils.py:376-454, commit d39fc7d). It is `with_outputs`.

With f_S and f_D the forward FLOPs of the sparse and the dense network, a training step costs

- ``3 f_S`` where the gradient of active weights is enough: forward, gradient of the inputs, gradient of the weights;
- ``2 f_S + f_D`` where the dense gradient of the weights is needed: RigL on update steps, SNFS always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from rigl_lightning.sparsity.names import clean_name


def training_flops(forward: float, weight_gradient: float) -> float:
    """FLOPs of one training step (paper, appendix "Calculation of FLOPs").

    Args:
        forward: Forward FLOPs with the inactive connections left out; the gradient of the inputs costs the same.
        weight_gradient: FLOPs of the gradient of the weights: as many as forward if only active connections need
            one, those of the dense network's forward if all do.

    >>> training_flops(10, 10), training_flops(10, 100)
    (30, 120)
    """
    return 2 * forward + weight_gradient


def sparse_forward_flops(dense_flops: Mapping[str, float], density: Mapping[str, float]) -> float:
    """Forward FLOPs with inactive connections left out.

    Args:
        dense_flops: Forward FLOPs of each weight when dense, as from `FlopCounter`.
        density: Density of each sparse weight; a weight that is not named is dense.

    >>> sparse_forward_flops({"conv": 100, "fc": 10}, {"conv": 0.1})
    20.0
    """
    return sum(flops * density.get(name, 1.0) for name, flops in dense_flops.items())


def with_outputs(flops: Mapping[str, float], outputs: Mapping[str, float]) -> dict[str, float]:
    """FLOPs of the convention "products and outputs", from those of the convention "products".

    One FLOP per output is an entry of its own, which has no density and so is never sparse.

    Args:
        flops: Forward FLOPs of each weight when dense, as from `trace`.
        outputs: Outputs of each weight, as from `trace`.

    >>> dense = with_outputs({"fc.weight": 200}, {"fc.weight": 10})
    >>> sum(dense.values()), sparse_forward_flops(dense, {"fc.weight": 0.5})
    (210, 110.0)
    """
    return {**flops, **{f"{name} (outputs)": n for name, n in outputs.items()}}


class FlopCounter(TorchFunctionMode):
    """Counts the forward FLOPs of every weight while it is active, whatever module or function uses the weight.

    It watches the calls of linear, convolution, product, attention and recurrent functions that are given a parameter
    or a slice of one; a copy (cast, rescaled) is not recognised. Nothing is registered on the model, and nothing it
    computes changes. A weight that is used several times counts each time. Enter it around the forward pass only, not
    the backward pass: gradient checkpointing repeats the forward there.

    Attributes:
        flops: FLOPs of products by parameter name, summed over the batch.
        outputs: Numbers that these products make, by parameter name, summed over the batch.

    Args:
        module: Its parameters are counted.

    >>> model = nn.Linear(4, 3)
    >>> with FlopCounter(model) as counter:
    ...     _ = model(torch.zeros(5, 4))
    >>> counter.flops  # 2 · 4 · 3 · 5
    {'weight': 120}
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.flops: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        self._names = {id(parameter): clean_name(name) for name, parameter in module.named_parameters()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, then count it."""
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(getattr(func, "__name__", ""))
        if count is not None:
            # A way of calling that no counter below expects must not cost the user a run.
            with suppress(TypeError, IndexError, KeyError, StopIteration, AttributeError):
                self._add(count(result, *args, **(kwargs or {})))
        return result

    def _add(self, counted: _Counted) -> None:
        for weight, flops, outputs in counted:
            name = self._name_of(weight)
            if name is not None:
                self.flops[name] = self.flops.get(name, 0) + flops
                self.outputs[name] = self.outputs.get(name, 0) + outputs

    def _name_of(self, weight: Tensor) -> str | None:
        # Attention takes slices of one packed parameter, which are views of it.
        base = weight if weight._base is None else weight._base
        return self._names.get(id(base))


_Counted = list[tuple[Tensor, int, int]]
"""For each operand that may be a weight: the tensor, the FLOPs of the product, and its outputs."""


def _linear(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> _Counted:
    return [_rows(weight, input.numel() // input.shape[-1])]


def _rows(weight: Tensor, vectors: int) -> tuple[Tensor, int, int]:
    # Each row of an (out, in) matrix makes one output of every vector.
    shape = _shape(weight)
    return weight, 2 * math.prod(shape) * vectors, shape[0] * vectors


def _shape(weight: Tensor) -> Sequence[int]:
    """Of the dense weight, also where the parameter holds its active connections only (`CompactWeight`)."""
    return getattr(weight, "dense_shape", weight.shape)


def _convolution(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> _Counted:
    # (out, in / groups, *kernel): each weight is used once at every output position of every sample.
    shape = _shape(weight)
    return [(weight, 2 * math.prod(shape) * (result.numel() // shape[0]), result.numel())]


def _transposed_convolution(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> _Counted:
    # (in, out / groups, *kernel): each weight is used once at every input position of every sample.
    return [(weight, 2 * weight.numel() * (input.numel() // weight.shape[0]), result.numel())]


def _product(result: Tensor, *operands: Any, **named: Any) -> _Counted:
    # Each element of the result is a sum over the inner dimension, the last one of the left operand.
    left, right = _tensors(operands, named)[-2:]
    flops = 2 * result.numel() * left.shape[-1]
    return [(left, flops, result.numel()), (right, flops, result.numel())]


def _tensordot(result: Tensor, *operands: Any, **named: Any) -> _Counted:
    # (m, k) with (k, n) to (m, n), whatever the numbers of dimensions: m · k · n is the root of the sizes' product.
    left, right = _tensors(operands, named)[:2]
    flops = 2 * math.isqrt(left.numel() * right.numel() * result.numel())
    return [(left, flops, result.numel()), (right, flops, result.numel())]


def _einsum(result: Tensor, equation: str, *operands: Any) -> _Counted:
    # Multiplied over all indices at once, as a product of two operands is.
    tensors = list(operands[0]) if isinstance(operands[0], list | tuple) else list(operands)
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        before, _, after = term.partition("...")
        sizes.update(zip(before, tensor.shape, strict=False))
        sizes.update(zip(reversed(after), reversed(tensor.shape), strict=False))
        rest = tensor.shape[len(before) : tensor.ndim - len(after)]
        sizes["..."] = max(sizes.get("...", 1), math.prod(rest))
    return [(tensor, 2 * math.prod(sizes.values()), result.numel()) for tensor in tensors]


def _tensors(operands: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor]:
    # By position first, then by keyword: torch's names are in the order of the operands (input, other; mat1, mat2).
    return [value for value in (*operands, *named.values()) if isinstance(value, Tensor)]


def _recurrent(result: Any, input: Tensor, *rest: Any, **_: Any) -> _Counted:
    # torch._VF passes (input, [batch sizes,] states, flat weights, ...): each matrix meets every vector of the input.
    flat = next(a for a in rest if isinstance(a, list | tuple) and any(isinstance(w, nn.Parameter) for w in a))
    vectors = input.numel() // input.shape[-1]
    return [_rows(weight, vectors) for weight in flat if len(_shape(weight)) == 2]


def _cell(result: Any, input: Tensor, state: Any, *weights: Any, **_: Any) -> _Counted:
    vectors = math.prod(input.shape[:-1])
    return [_rows(w, vectors) for w in weights if isinstance(w, Tensor) and w.ndim == 2]


def _attention(
    result: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    heads: int,
    packed: Tensor | None,
    *rest: Any,
    **kw: Any,
) -> _Counted:
    # torch's multi_head_attention_forward calls linear out of our sight. Projections only: scores have no weights.
    out_projection = kw["out_proj_weight"] if "out_proj_weight" in kw else rest[5]
    if kw.get("use_separate_proj_weight"):
        projections = [(kw["q_proj_weight"], query), (kw["k_proj_weight"], key), (kw["v_proj_weight"], value)]
    else:
        assert packed is not None
        projections = list(zip(packed.chunk(3), (query, key, value), strict=True))
    return [_linear(result, x, weight)[0] for weight, x in [*projections, (out_projection, query)]]


_COUNTS: dict[str, Callable[..., _Counted]] = {
    "linear": _linear,
    "multi_head_attention_forward": _attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "inner", "__matmul__", "addmm", "addmv", "baddbmm"), _product),
    "tensordot": _tensordot,
    "einsum": _einsum,
    **dict.fromkeys(("rnn_tanh", "rnn_relu", "gru", "lstm"), _recurrent),
    **dict.fromkeys(("rnn_tanh_cell", "rnn_relu_cell", "gru_cell", "lstm_cell"), _cell),
}


def trace_flops(module: nn.Module, *inputs: Any, **named_inputs: Any) -> dict[str, int]:
    """Forward FLOPs of every weight for given inputs: those of `trace`, in the convention "products".

    Returns:
        FLOPs by parameter name; parameters that take part in no product are left out.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    >>> trace_flops(model, torch.zeros(1, 3, 4, 4))  # 2 · 8 · 3 · 9 · 16 and 2 · 128 · 10
    {'0.weight': 6912, '2.weight': 2560}
    """
    return trace(module, *inputs, **named_inputs).flops


def flops_per_sample(module: nn.Module, *inputs: Any, **named_inputs: Any) -> dict[str, float]:
    """`trace_flops` of one sample; the first dimension of the first input counts them. Empty if that tells nothing.

    >>> flops_per_sample(nn.Linear(4, 3), torch.zeros(5, 4)), flops_per_sample(nn.Linear(4, 3), torch.zeros(0, 4))
    ({'weight': 24.0}, {})
    """
    flops = trace_flops(module, *inputs, **named_inputs)
    samples = next((len(t) for t in tree_leaves((inputs, named_inputs)) if isinstance(t, Tensor) and t.ndim > 0), 0)
    return {name: n / samples for name, n in flops.items()} if samples and any(flops.values()) else {}


def trace(module: nn.Module, *inputs: Any, **named_inputs: Any) -> FlopCounter:
    """FLOPs and outputs of every weight for given inputs, found on the meta device without computing anything.

    Neither the module nor the random state changes: a copy without storage is traced in evaluation mode.

    Args:
        module: Any module whose forward runs on the meta device.
        *inputs: Its inputs; only shapes and types matter. Divide by the batch size for FLOPs per sample.
        **named_inputs: The same, by name.

    Returns:
        A counter that has finished: read its ``flops`` and ``outputs``.

    >>> counted = trace(nn.Linear(4, 3), torch.zeros(5, 4))
    >>> counted.flops, counted.outputs
    ({'weight': 120}, {'weight': 15})
    """
    memo = {id(tensor): _on_meta(tensor) for tensor in (*module.parameters(), *module.buffers())}
    copy = deepcopy(module, memo).eval()
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (inputs, named_inputs))
    with torch.no_grad(), FlopCounter(copy) as counter:
        copy(*args, **kwargs)
    return counter


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
