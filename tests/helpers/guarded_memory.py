"""Tensors whose memory ends, or begins, at a page that nobody may touch: a kernel that steps outside is killed."""

import ctypes
import mmap
import sys
from dataclasses import fields, replace

import torch

from rigl_lightning.kernels import workspace

_PAGE = mmap.PAGESIZE
_PROTECT = ctypes.CDLL(None).mprotect
_PROTECT.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(tensor, at_end=True):
    """A copy of a tensor with the same strides order, its last (or first) element next to a forbidden page."""
    size = tensor.numel() * tensor.element_size()
    if not size:
        return tensor.clone()
    inside = -(-size // _PAGE) * _PAGE
    memory = mmap.mmap(-1, inside + 2 * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for forbidden in (address, address + _PAGE + inside):
        assert _PROTECT(forbidden, _PAGE, 0) == 0
    start = _PAGE + (inside - size if at_end else 0)
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start)
    order = sorted(range(tensor.ndim), key=lambda i: -tensor.stride(i))
    copy = flat.view([tensor.shape[i] for i in order]).permute([order.index(i) for i in range(tensor.ndim)])
    return copy.copy_(tensor.detach())


def guarded_pattern(pattern, at_end=True):
    """The pattern with all its tensors guarded."""
    return replace(pattern, **{field.name: guarded(getattr(pattern, field.name), at_end) for field in fields(pattern)})


def guard_workspace():
    """All memory that the kernels make is guarded from now on, in this process; what is not zero is not a number."""
    import rigl_lightning.kernels.compiled.batch_norm
    import rigl_lightning.kernels.compiled.conv
    import rigl_lightning.kernels.compiled.pointwise
    import rigl_lightning.kernels.compiled.positions
    import rigl_lightning.kernels.compiled.recurrent
    import rigl_lightning.kernels.inference.recurrent  # noqa: F401

    def new(*shape, dtype=torch.float32):
        return guarded(torch.full(shape, torch.nan if dtype.is_floating_point else -1, dtype=dtype))

    def new_zeros(*shape):
        return guarded(torch.zeros(shape))

    workspace.KEPT_FLOATS = 0
    for name, module in list(sys.modules.items()):
        if name.startswith("rigl_lightning.kernels"):
            for made in (new, new_zeros):
                if hasattr(module, made.__name__):
                    setattr(module, made.__name__, made)
