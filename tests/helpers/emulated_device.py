"""A second device, emulated: tensors that say they lie elsewhere, and a record of what is asked of them.

The numbers are real and computed on the CPU, so that results must equal the CPU's to the bit. As with a GPU, an
operation takes tensors of one device only, numpy cannot read them, and reading a value makes the host wait.
"""

from __future__ import annotations

import copy

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
DEVICE = torch.device("meta")  # any that is not the CPU; this one needs no driver
_ALWAYS_WAIT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class Elsewhere(torch.Tensor):
    """A tensor of the emulated device; ``inner`` has its values."""

    inner: torch.Tensor
    is_meta = False  # it has numbers

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        self.inner = inner

    def as_subclass(self, cls):
        """Itself: a tensor of a real device has no inner one, and torch 2.6 cannot take one off."""
        return self

    def data_ptr(self):
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})[0]

    def __deepcopy__(self, memo):
        twin = Elsewhere(self.inner.detach().clone())
        return torch.nn.Parameter(twin, self.requires_grad) if isinstance(self, torch.nn.Parameter) else twin


class Emulation(TorchDispatchMode):
    """While it is entered, the device exists.

    Attributes:
        launches: Operations that a device would have to run.
        waits: Those for whose result the host waits.
        copies: Those between the devices.
    """

    def __init__(self):
        super().__init__()
        self.forget()

    def forget(self):
        """Begin to record anew."""
        self.launches, self.waits, self.copies = [], [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, elsewhere = _run(func, args, kwargs or {})
        if elsewhere and func.namespace != "profiler" and not _is_view(func):
            self.launches.append(str(func))
            if _waits(func, args):
                self.waits.append(str(func))
            if _is_copy(func, args, kwargs or {}):
                self.copies.append(str(func))
                if not isinstance(out, Elsewhere):
                    self.waits.append(str(func))
        return out


def put_elsewhere(module):
    """A copy of the module on the emulated device."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(Elsewhere(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Elsewhere(buffer)
    return twin


def _run(func, args, kwargs):
    """Result of the operation, and whether the emulated device takes part in it."""
    kwargs = dict(kwargs)
    asked_for = kwargs.get("device")
    if asked_for is not None:
        kwargs["device"] = torch.device("cpu")
    leaves = tree_leaves((args, kwargs))
    elsewhere = any(isinstance(leaf, Elsewhere) for leaf in leaves)
    if elsewhere and not _is_copy(func, args, {"device": asked_for}):
        strangers = [t for t in leaves if isinstance(t, torch.Tensor) and not isinstance(t, Elsewhere) and t.ndim > 0]
        if strangers:
            raise RuntimeError(f"Expected all tensors on one device, got some on the CPU and some elsewhere: {func}")
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    stays = torch.device(asked_for).type != "cpu" if asked_for is not None else elsewhere
    if not (elsewhere or stays):
        return out, False
    if func is aten.copy_.default:
        return args[0], True
    wrapped = tree_map(lambda t: Elsewhere(t) if stays and isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped), True


def _inner(value):
    return value.inner if isinstance(value, Elsewhere) else value


def _is_view(func):
    returned = [r.alias_info for r in func._schema.returns]
    return func is aten.detach.default or any(alias is not None and not alias.is_write for alias in returned)


def _waits(func, args):
    if func in _INDEXED:
        return any(
            isinstance(i, torch.Tensor) and (i.dtype == torch.bool or not isinstance(i, Elsewhere)) for i in args[1]
        )
    return func in _ALWAYS_WAIT


def _is_copy(func, args, kwargs):
    if func is aten._to_copy.default:
        there = kwargs.get("device")
        return there is not None and (torch.device(there).type == "cpu") == isinstance(args[0], Elsewhere)
    if func is aten.copy_.default:
        return isinstance(args[0], Elsewhere) != isinstance(args[1], Elsewhere)
    return False
