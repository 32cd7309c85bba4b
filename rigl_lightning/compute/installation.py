"""Replacing the forward of one module, and giving it back without a trace.

The module gets a class of its own, made from the one it has, as torch's parametrizations do it. Hooks, ``state_dict``,
``isinstance`` and parameters stay as they are; copies and pickles are those of the module without us.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from torch import nn

Forward = Callable[..., Any]
_MARK = "_rigl_lightning_original"


def replace_forward(module: nn.Module, make: Callable[[Forward], Forward]) -> None:
    """Let ``module.forward`` be ``make(its own forward)``, until `restore_forward`."""
    original = type(module)

    class Replaced(original):  # type: ignore[misc, valid-type]
        def __reduce_ex__(self, protocol: Any) -> Any:
            # copy, deepcopy and pickle make an instance of the class that this names; pickle takes copyreg.__newobj__
            # for the object's own class only.
            function, args, *rest = super().__reduce_ex__(protocol)
            if args[:1] == (Replaced,) and function is copyreg.__newobj__:  # type: ignore[attr-defined]
                function, args = copyreg._reconstructor, (Replaced, object, None)  # type: ignore[attr-defined]
            return function, tuple(original if arg is Replaced else arg for arg in args), *rest

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Replaced, name, getattr(original, name))
    setattr(Replaced, _MARK, original)
    forward = make(lambda *args, **kwargs: original.forward(module, *args, **kwargs))
    Replaced.forward = lambda self, *args, **kwargs: _call(self, module, original, forward, args, kwargs)
    module.__class__ = Replaced


def is_replaced(module: nn.Module) -> bool:
    """Whether `replace_forward` was called on it, and `restore_forward` was not."""
    return _MARK in vars(type(module))


def restore_forward(module: nn.Module) -> None:
    """Give the module its class back; nothing happens to one that has it."""
    original = vars(type(module)).get(_MARK)
    if original is not None:
        module.__class__ = original


def _call(
    self: nn.Module, module: nn.Module, original: type[nn.Module], forward: Forward, args: Any, kwargs: Any
) -> Any:
    # A replica, made by calling the class (torch's DataParallel), is not the module whose forward was replaced.
    if self is not module:
        return original.forward(self, *args, **kwargs)
    return forward(*args, **kwargs)
