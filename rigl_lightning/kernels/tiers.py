"""Which implementation computes a layer: compiled vectors, torch's sparse operators, or torch's dense ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Tier = Literal["fast", "torch", "dense"]
TIERS: tuple[Tier, ...] = ("fast", "torch", "dense")
_NUMBA = find_spec("numba") is not None
_forced: list[Tier] = []


def available() -> tuple[Tier, ...]:
    """Tiers that can run here, best first: ``fast`` needs numba, ``torch`` and ``dense`` nothing.

    >>> available()[-2:]
    ('torch', 'dense')
    """
    return TIERS if _numba_found() else TIERS[1:]


def recorded() -> bool:
    """Whether a compiler or tracer records the calls, so that plain Python in their place would be lost."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def overridden() -> bool:
    """Whether `use_tier` asks for something else than the best."""
    return bool(_forced)


def is_plain(tensor: Tensor) -> bool:
    """Whether what a tensor holds is the memory on the CPU that its address, strides and dtype name.

    That of a subclass, of another layout, and of a function transform (`torch.func`, batched gradients) is elsewhere.
    Within a level of forward-mode differentiation no tensor counts as plain: its tangent would be lost.
    """
    return (
        tensor.is_cpu
        and tensor.layout is torch.strided
        and type(tensor) in (Tensor, nn.Parameter)
        and forward_ad._current_level < 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def no_transform_is_active() -> bool:
    """Whether no function transform of `torch.func` is under way, which would hide memory behind a plain tensor."""
    return forward_ad._current_level < 0 and torch._C._functorch.peek_interpreter_stack() is None


def tier_of(*tensors: Tensor | None) -> Tier:
    """Tier that computes a layer on these tensors, its inputs and parameters.

    ``fast`` takes float32 on the CPU, and bfloat16 as the first, the inputs; ``torch`` also float64, all of one dtype.
    Everything else is dense, with masked gradients. Says once, as a warning, that numba is missing.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    dtypes = {tensor.dtype for tensor in given}
    if given[0].dtype is torch.bfloat16 and takes_bfloat16():
        dtypes = {torch.float32, *(tensor.dtype for tensor in given[1:])}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        return "dense"
    (dtype,) = dtypes
    if torch.compiler.is_compiling():
        if any(tensor.device.type != "cpu" for tensor in given):
            return "dense"
    elif not all(map(is_plain, given)):
        return "dense"
    wanted = _forced[-1] if _forced else "fast"
    if wanted == "fast" and dtype == torch.float32 and _numba_found():
        return "fast"
    if wanted == "fast" and dtype == torch.float32:
        _say_what_is_missing()
    return "dense" if wanted == "dense" else "torch"


def takes_bfloat16() -> bool:
    """Whether the fast tier computes here, which reads and writes bfloat16 activations."""
    return _NUMBA and (not _forced or _forced[-1] == "fast") and not torch.compiler.is_compiling()


def are_readable(grads: Iterable[Tensor | None]) -> bool:
    """Whether the kernels can read the gradients that a backward pass is given, and need not be differentiated."""
    return not torch.is_grad_enabled() and all(grad is None or is_plain(grad) for grad in grads)


def has_fast_tier(x: Tensor) -> bool:
    """Whether the fast tier takes this tensor here; says nothing of what is missing."""
    return x.dtype == torch.float32 and is_fast_tier_on() and is_plain(x)


def is_fast_tier_on() -> bool:
    """Whether the fast tier may compute what it can."""
    return _NUMBA and (not _forced or _forced[-1] == "fast")


@contextmanager
def use_tier(tier: Tier) -> Iterator[None]:
    """Use at most this tier within the context, for tests and benchmarks.

    Raises:
        ValueError: If the tier is unknown or cannot run here.
    """
    if tier not in available():
        raise ValueError(f"Expected a tier of {available()}, got {tier!r}. The fast tier needs numba.")
    _forced.append(tier)
    try:
        yield
    finally:
        _forced.pop()


def _numba_found() -> bool:
    return _NUMBA  # asked once at import: torch.compile cannot look for packages


@cache
def _say_what_is_missing() -> None:
    warnings.warn(
        "Sparse layers run on torch's own operators, about half as fast as they could: numba is not installed. "
        "Set it up with `pip install 'rigl-lightning[fast]'`.",
        stacklevel=3,
    )
