"""Linear and Conv2d layers for inference that hold values and indices, and read nothing else."""

from __future__ import annotations

import math
from collections.abc import Hashable
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rigl_lightning.base.errors import SettingError, StateError
from rigl_lightning.export.folded import UNBOUNDED, Bounds, FoldedConv2d, finished, padded
from rigl_lightning.export.sparse_weight import SparseWeight
from rigl_lightning.kernels.conv_geometry import Window, geometry, outputs
from rigl_lightning.kernels.inference import operators
from rigl_lightning.kernels.settings import readable
from rigl_lightning.kernels.tiers import is_plain, overridden, recorded, tier_of
from rigl_lightning.kernels.torch_tier import linear as torch_linear

_PLANS_KEPT = 8
"""Plans of a layer that are kept: for sizes of inputs, thread counts and threads."""
_PART = 256
"""Input features that are read together: 64 positions of them are 64 KiB."""


class CompactLayer(nn.Module):
    """What compact layers share: inference only, and dense products where the kernels do not support a call.

    The kernels take float32 on the CPU. On other devices, in other dtypes, and where a gradient of the input is
    recorded, the dense weight is made for the call, and torch computes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._plans: dict[Hashable, Any] = {}
        self.register_load_state_dict_post_hook(_forget_plans)

    def train(self, mode: bool = True) -> CompactLayer:
        """Refuse training.

        Raises:
            RuntimeError: If ``mode`` is True.
        """
        if mode:
            raise StateError(
                "Expected a compact network to stay in evaluation mode: its batch norms are folded and its weights are "
                "no parameters. Train the dense module, and call `compact` again."
            )
        super().train(False)
        return self

    def _ready_plan(self, x: Tensor, addend: Tensor | None = None) -> Any:
        """The plan that inputs like these can go by at once, or None; a few microseconds count here."""
        if recorded() or overridden() or not _is_simple(x) or not (addend is None or _is_simple(addend)):
            return None
        return self._plans.get(_key(x, addend))

    def _keep(self, x: Tensor, addend: Tensor | None, plan: Any) -> Any:
        """Keep a plan for inputs like these, of this thread."""
        while len(self._plans) >= _PLANS_KEPT:
            self._plans.pop(next(iter(self._plans)), None)
        self._plans[_key(x, addend)] = plan
        return plan

    def _apply(self, fn: Any, recurse: bool = True) -> CompactLayer:
        self._plans = {}  # they know where the tensors were
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}


class CompactLinear(CompactLayer):
    """``clamp(x @ weight.T + bias)``.

    Args:
        linear: The dense layer.
        mask: Its active connections; None for those that are not exactly zero.
        bounds: Lower and upper bound of the outputs.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, mask: Tensor | None = None, bounds: Bounds = UNBOUNDED) -> None:
        super().__init__()
        self.sparse_weight, self.bounds = SparseWeight(linear.weight, mask, _PART), bounds
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", linear.bias.detach().clone() if linear.bias is not None else None)
        self.eval()

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew at every access."""
        return self.sparse_weight.dense()

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        plan = self._ready_plan(x)
        return plan(x) if plan is not None else self._unplanned(x)

    def _unplanned(self, x: Tensor) -> Tensor:
        w = self.sparse_weight
        tier = input_tier(x, w.values, self.bias)
        if tier == "dense":
            return finished(F.linear(x, w.dense(), self.bias), None, self.bounds)
        if x.shape[-1] != self.in_features:
            raise SettingError(f"Expected {self.in_features} input features, got {tuple(x.shape)}.")
        rows = x.reshape(-1, self.in_features)
        if tier == "torch":
            out = torch_linear.multiply(rows.t(), w.values, w.row_starts, w.columns).t().contiguous()
            out = finished(out if self.bias is None else out.add_(self.bias), None, self.bounds)
        elif recorded():
            tensors = [w.values, w.columns, w.parts, w.row_starts]
            out = operators.linear_op(rows, tensors, self.bias, list(self.bounds))
        elif not rows.shape[0]:
            out = rows.new_empty(0, self.out_features)
        else:
            return self._keep(x, None, self._make_plan(x.shape, rows.shape[0]))(readable(x))
        return out.view(*x.shape[:-1], self.out_features)

    def _make_plan(self, shape: tuple[int, ...], samples: int) -> Any:
        from rigl_lightning.kernels.inference.products import Product, plan_linear

        w = self.sparse_weight
        p = Product.of([w.values, w.columns, w.parts, w.row_starts], self.bias, self.bounds)
        plan = plan_linear(samples, self.in_features, p)
        plan.shape = (*shape[:-1], self.out_features)
        return plan


class CompactConv2d(CompactLayer):
    """``clamp(conv(x) + addend)`` of any stride, padding, dilation and number of groups.

    Args:
        conv: The dense layer.
        mask: Its active connections; None for those that are not exactly zero.
    """

    bias: Tensor | None

    def __init__(self, conv: FoldedConv2d, mask: Tensor | None = None) -> None:
        super().__init__()
        taps = math.prod(conv.weight.shape[2:])
        self.sparse_weight = SparseWeight(conv.weight, mask, _PART * taps)
        self.bounds, self.stride, self.dilation, self.groups = conv.bounds, conv.stride, conv.dilation, conv.groups
        self.margins, self.padding_mode = conv.margins, conv.padding_mode
        self.register_buffer("bias", conv.bias.detach().clone() if conv.bias is not None else None)
        self.eval()

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew at every access."""
        return self.sparse_weight.dense()

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) or (C, H, W), and what is added to the outputs before they are bounded."""
        plan = self._ready_plan(x, addend)
        return plan(x, addend) if plan is not None else self._unplanned(x, addend)

    def _unplanned(self, x: Tensor, addend: Tensor | None) -> Tensor:
        if x.ndim == 3:
            return self.forward(x[None], None if addend is None else addend[None])[0]
        w = self.sparse_weight
        channels = w.shape[1] * self.groups
        if x.ndim != 4 or x.shape[1] != channels:
            raise SettingError(f"Expected images (N, {channels}, H, W), got {tuple(x.shape)}.")
        before = x
        x, padding = padded(x, self.margins, self.padding_mode)
        tier = input_tier(x, w.values, self.bias)
        window = Window(cast(Any, self.stride), padding, cast(Any, self.dilation))
        if tier != "fast" or not x.numel():
            return self._dense(x, addend, window)
        if not recorded() and not geometry(x.shape, w.shape, window).has_offsets:
            return self._dense(x, addend, window)
        if addend is not None and (addend.shape != self._shape(x, window) or input_tier(addend, w.values) != "fast"):
            return finished(self._dense(x, None, window, UNBOUNDED), addend, self.bounds)
        if recorded():
            flat = [*w.shape[2:], *(number for pair in window for number in pair), self.groups]
            tensors = [w.values, w.columns, w.parts, w.row_starts]
            op = operators.conv2d_op
            return op(x, tensors, self.bias, addend, flat, list(self.bounds))
        if w.shape[2:] == (1, 1) and padding == (0, 0) and window.stride != (1, 1):
            x, window = x[:, :, :: window.stride[0], :: window.stride[1]], window._replace(stride=(1, 1))
        reshaped = x is not before
        plan = self._make_plan(x, window, addend is not None)
        if not reshaped:
            self._keep(x, addend, plan)
        return plan(readable(x), readable(addend) if addend is not None else None)

    def _make_plan(self, x: Tensor, window: Window, with_addend: bool) -> Any:
        from rigl_lightning.kernels.inference.products import Product, plan_conv2d

        w = self.sparse_weight
        p = Product.of([w.values, w.columns, w.parts, w.row_starts], self.bias, self.bounds)
        return plan_conv2d(tuple(x.shape), p, (w.shape[2], w.shape[3]), window, self.groups, with_addend)  # type: ignore[arg-type]

    def _shape(self, x: Tensor, window: Window) -> tuple[int, ...]:
        """Shape of the outputs."""
        w = self.sparse_weight
        return (x.shape[0], w.shape[0], *outputs(x.shape[2:], w.shape[2:], window))

    def _dense(self, x: Tensor, addend: Tensor | None, window: Window, bounds: Bounds | None = None) -> Tensor:
        out = F.conv2d(x, self.weight, self.bias, *window, self.groups)
        return finished(out, addend, self.bounds if bounds is None else bounds)


def _is_simple(x: Tensor) -> bool:
    if x.dtype is not torch.float32 or not x.is_contiguous() or x.is_neg() or not is_plain(x):
        return False
    return not (x.requires_grad and torch.is_grad_enabled())


def _key(x: Tensor, addend: Tensor | None) -> Hashable:
    """What a plan depends on: the thread that uses its memory, too."""
    return get_ident(), torch.get_num_threads(), x.shape, None if addend is None else addend.shape


def input_tier(x: Tensor, *tensors: Tensor | None) -> str:
    """Tier that computes a layer of these tensors; dense where a gradient of the input is recorded."""
    return "dense" if torch.is_grad_enabled() and x.requires_grad else tier_of(x, *tensors)


def _forget_plans(module: nn.Module, _: Any) -> None:
    assert isinstance(module, CompactLayer)
    module._plans = {}
