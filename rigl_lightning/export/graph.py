"""Fusing a network's graph: batch norm, addition and ReLU become part of the convolution or linear layer before them.

The graph is taken by `torch.fx`, which calls ``forward`` with proxies. What cannot be taken so (control flow that
depends on numbers, optional arguments) is left as it is, and its submodules are tried.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from rigl_lightning.export.batch_norm_folding import fold_batch_norm
from rigl_lightning.export.example import attributes_kept
from rigl_lightning.export.folded import Bounds, FoldedConv2d, finished

_RELU: Bounds = (0.0, math.inf)
_RELU6: Bounds = (0.0, 6.0)
_BOUND_FUNCTIONS: dict[Any, Bounds] = {F.relu: _RELU, F.relu_: _RELU, torch.relu: _RELU, torch.relu_: _RELU,
                                       F.relu6: _RELU6}  # fmt: skip
_ADDITIONS = {operator.add, torch.add}


class FoldedLinear(nn.Module):
    """``clamp(x @ weight.T + bias)`` with a dense weight; the tensors of ``linear`` are shared, not copied."""

    def __init__(self, linear: nn.Linear, bounds: Bounds) -> None:
        super().__init__()
        self.weight, self.bias, self.bounds = linear.weight, linear.bias, bounds
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        return finished(F.linear(x, self.weight, self.bias), None, self.bounds)


def fuse(module: nn.Module) -> nn.Module:
    """The module in evaluation mode with its largest traceable parts fused; those become a `torch.fx.GraphModule`.

    Submodules may be replaced in place; pass a copy. Tensors that are not changed are shared.
    """
    traced = _trace(module) if _may_be_traced(module) else None
    if traced is not None:
        return _fused(traced)
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.MultiheadAttention):
            fused = fuse(child)
            if fused is not child:
                setattr(module, name, fused)
    return module


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what its torch class does, with weights of its own, and nobody listens to it."""
    if not isinstance(module, kind) or type(module).forward is not kind.forward or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    own = all(not isinstance(v, torch.Tensor) for v in vars(module).values())  # torch.nn.utils.prune, weight norm
    return own and not any(hooks) and not parametrize.is_parametrized(module)


def _is_listened_to(module: nn.Module) -> bool:
    """Whether a hook sees its calls."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def in_place(name: str, x: Any, other: Any) -> Any:
    """``x += other``, if the name is "iadd", of tensors or of numbers."""
    return getattr(operator, name)(x, other)


class _Proxy(fx.Proxy):
    """Keeps that ``x += y`` writes to ``x``, which others may look at; to torch's proxy it is an addition."""

    def _write(self, name: str, other: Any) -> fx.Proxy:
        written = self.tracer.create_proxy("call_function", in_place, (name, self, other), {})
        written.node.meta["is_wrapped"] = True  # so that it stays one call when the graph is pickled
        return written

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._write("iadd", other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._write("isub", other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._write("imul", other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._write("itruediv", other)


class _Tracer(fx.Tracer):
    """Takes timm's batch norms with activation as one module, too."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_leaf = _is_listened_to(m) or isinstance(m, nn.BatchNorm2d)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)


def _may_be_traced(module: nn.Module) -> bool:
    """Whether a trace can be trusted: only required inputs, since an optional one would be traced as present."""
    if not any(isinstance(m, nn.Conv2d | nn.Linear) for m in module.children() if not list(m.children())) and not any(
        isinstance(m, nn.Conv2d) for m in module.modules()
    ):
        return False
    if isinstance(module, fx.GraphModule | nn.ModuleList | nn.ModuleDict) or hasattr(module, "training_step"):
        return False
    if _is_listened_to(module) or "forward" in vars(module):
        return False
    kinds = list(inspect.signature(module.forward).parameters.values())
    required = all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in kinds)
    from_torch = type(module).__module__.partition(".")[0] == "torch"
    return required and (isinstance(module, nn.Sequential) or not from_torch)


def _trace(module: nn.Module) -> fx.GraphModule | None:
    try:
        with attributes_kept(module) as changed:
            graph = _Tracer().trace(module)
            for node in graph.nodes:
                node.type = None  # an annotation that is a string cannot be pickled by torch 2.6
            # A graph would not go on from what a call leaves in the module.
            return None if changed() else fx.GraphModule(module, graph, type(module).__name__)
    except Exception:  # whatever a forward does with proxies
        return None


def _fused(traced: fx.GraphModule) -> fx.GraphModule:
    for step in (_drop_identities, _split_activations, _fold_batch_norms, _wrap, _fuse_additions, _fuse_bounds):
        step(traced)
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _modules(traced: fx.GraphModule, kind: Any) -> Iterator[tuple[fx.Node, Any]]:
    """Nodes that call a module of this kind, each called once in the graph."""
    counts: dict[int, int] = {}
    found = []
    for node in traced.graph.nodes:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            counts[id(module)] = counts.get(id(module), 0) + 1
            if isinstance(module, kind):
                found.append((node, module))
    return ((node, module) for node, module in found if counts[id(module)] == 1)


def _replace(traced: fx.GraphModule, node: fx.Node, other: fx.Node) -> None:
    node.replace_all_uses_with(other)
    traced.graph.erase_node(node)


def _drop_identities(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            module = traced.get_submodule(str(node.target))
            if isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd) and not _is_listened_to(module):
                _replace(traced, node, node.args[0])


def _split_activations(traced: fx.GraphModule) -> None:
    """Split BatchNormAct2d of timm: the norm, then its dropout and its activation."""
    for node, norm in list(_modules(traced, nn.BatchNorm2d)):
        if (
            type(norm) is nn.BatchNorm2d
            or not all(hasattr(norm, name) for name in ("act", "drop"))
            or not _is_eval(norm)
            or _is_listened_to(norm)
        ):
            continue
        plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        plain._parameters, plain._buffers = dict(norm._parameters), dict(norm._buffers)
        plain.train(norm.training)
        act = norm.act
        traced.add_submodule(str(node.target), plain)
        name = f"{node.target}_act"
        traced.add_submodule(name, act)
        with traced.graph.inserting_after(node):
            after = traced.graph.call_module(name, (node,))
        for user in [user for user in node.users if user is not after]:
            user.replace_input_with(node, after)
    _drop_identities(traced)


def _is_eval(norm: nn.Module) -> bool:
    return not norm.training and norm.running_mean is not None


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    for node, norm in list(_modules(traced, nn.BatchNorm2d)):
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        conv = _single_use(traced, source)
        if conv is None or not is_plain(conv, nn.Conv2d) or not is_plain(norm, nn.BatchNorm2d) or not _is_eval(norm):
            continue
        assert isinstance(source, fx.Node)
        assert isinstance(conv, nn.Conv2d)
        if any(n.op == "get_attr" and str(n.target).startswith(f"{source.target}.") for n in traced.graph.nodes):
            continue  # the weight is read besides, as in a tied decoder
        traced.add_submodule(str(source.target), fold_batch_norm(conv, norm))
        _replace(traced, node, source)


def _single_use(traced: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module whose only call this is, with one tensor in, and one user of what comes out."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) != 1 or node.kwargs:
        return None
    module = traced.get_submodule(str(node.target))
    calls = [n for n in traced.graph.nodes if n.op == "call_module" and traced.get_submodule(str(n.target)) is module]
    return module if len(calls) == 1 else None


def _wrap(traced: fx.GraphModule) -> None:
    """Every plain convolution as a `FoldedConv2d`, which takes an addend and bounds."""
    for node, conv in list(_modules(traced, nn.Conv2d)):
        if is_plain(conv, nn.Conv2d) and len(node.args) == 1 and not node.kwargs:
            traced.add_submodule(str(node.target), FoldedConv2d(conv))


def _fuse_additions(traced: fx.GraphModule) -> None:
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        operands = _added(node)
        if operands is None:
            continue
        pairs: list[tuple[fx.Node, fx.Node]] = [operands, operands[::-1]]
        if _writes(traced, node):  # others may look at what it writes to
            pairs = pairs[:1]
        pairs = [(a, b) for a, b in pairs if isinstance(_single_use(traced, a), FoldedConv2d) and len(a.args) == 1]
        if not pairs:
            continue
        # The later of two convolutions, so that the other has been computed.
        conv, addend = max(pairs, key=lambda pair: order[pair[0]])
        if conv is addend or not _is_feature_map(traced, addend):
            continue
        # It moves to the place of the addition: nothing may write to what it reads on the way.
        if any(order[conv] < order[other] < order[node] and _writes(traced, other) for other in traced.graph.nodes):
            continue
        with traced.graph.inserting_before(node):
            fused = traced.graph.call_module(str(conv.target), (conv.args[0], addend))
        order[fused] = order[node]
        _replace(traced, node, fused)
        traced.graph.erase_node(conv)


def _added(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two that a node adds; None for any other node."""
    args = node.args
    if node.target is in_place:
        args = args[1:] if args[0] == "iadd" else ()
    elif not (node.op == "call_method" and node.target in ("add", "add_")) and node.target not in _ADDITIONS:
        return None
    if node.kwargs or len(args) != 2 or not all(isinstance(arg, fx.Node) for arg in args):
        return None
    return args  # type: ignore[return-value]


def _writes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node changes a tensor in place."""
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    is_named = getattr(node.target, "__name__", "").endswith("_") or node.target in (in_place, operator.setitem)
    return is_named or bool(node.kwargs.get("inplace")) or node.kwargs.get("out") is not None


def _is_feature_map(traced: fx.GraphModule, node: Any) -> bool:
    """Whether a node surely is a tensor of the network, not a number that was read off one."""
    if node.op in ("call_module", "placeholder"):
        return True
    return node.op == "call_function" and node.target in {*_ADDITIONS, *_BOUND_FUNCTIONS, in_place}


def _fuse_bounds(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        bounds = _bounds_of(traced, node)
        source = node.args[0] if bounds is not None and node.args else None
        layer = _single_use(traced, source)
        if bounds is None or layer is None:
            continue
        assert isinstance(source, fx.Node)
        if isinstance(layer, FoldedConv2d):
            layer.bounds = _one_after_the_other(layer.bounds, bounds)
        elif is_plain(layer, nn.Linear):
            assert isinstance(layer, nn.Linear)
            traced.add_submodule(str(source.target), FoldedLinear(layer, bounds))
        else:
            continue
        _replace(traced, node, source)


def _one_after_the_other(first: Bounds, second: Bounds) -> Bounds:
    """The bounds of a tensor that is clamped twice.

    >>> _one_after_the_other((0.0, 6.0), (1.0, 9.0)), _one_after_the_other((0.0, 1.0), (2.0, 3.0))
    ((1.0, 6.0), (2.0, 2.0))
    """
    low, high = (min(max(bound, second[0]), second[1]) for bound in first)
    return low, high


def _bounds_of(traced: fx.GraphModule, node: fx.Node) -> Bounds | None:
    """Bounds of a ReLU or its like; None for any other node."""
    if node.op == "call_function" and node.target in _BOUND_FUNCTIONS and len(node.args) == 1:
        return _BOUND_FUNCTIONS[node.target]
    if node.op == "call_method" and node.target in ("relu", "relu_"):
        return _RELU
    if node.op == "call_module" and len(node.args) == 1:
        module = traced.get_submodule(str(node.target))
        if is_plain(module, nn.ReLU):
            return _RELU
        if is_plain(module, nn.ReLU6) or is_plain(module, nn.Hardtanh):
            assert isinstance(module, nn.Hardtanh)
            return float(module.min_val), float(module.max_val)
    return None
