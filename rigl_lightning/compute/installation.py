"""Replacing the forward of one module, and giving it back without a trace.

The module gets a class of its own, made from the one it has, as torch's parametrizations do it. Hooks, ``state_dict``,
``isinstance`` and parameters stay as they are; copies and pickles are those of the module without us.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import update_wrapper
from types import FunctionType
from typing import Any, Protocol

from torch import Tensor, nn

from rigl_lightning.compute.listed_parameters import Listed, show_as_they_are, show_listed

Forward = Callable[..., Any]
_MARK = "_rigl_lightning_original"


class Weights(Listed, Protocol):
    """Weights of a module that may be stored in another form than others are to see, by attribute."""

    @property
    def weights(self) -> Iterable[str]:
        """Attributes that hold them."""

    def dense_tensors(self) -> dict[str, Tensor]:
        """Dense weights, of those that are stored in another form."""

    def dense_copies(self) -> dict[str, Tensor]:
        """The same for a copy or a pickle; they live on for a while."""

    def read(self, attribute: str) -> Any:
        """What somebody who reads the attribute gets."""

    def bare(self) -> AbstractContextManager[None]:
        """Within, the parameters are seen as they are: recurrent modules list them when they are copied."""

    def to_load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What to load into the parameters for dense weights, by attribute."""

    def share(self) -> None:
        """Make the parameters dense for good: torch.jit.script is about to take them."""


def replace_forward(module: nn.Module, make: Callable[[Forward], Forward], weights: Weights | None = None) -> None:
    """Let ``module.forward`` be ``make(its own forward)``, until `restore_forward`.

    Args:
        module: Any.
        make: Takes the module's forward and returns the one to call instead.
        weights: Its weights, if not all are plain parameters; ``state_dict`` and copies have dense ones.
    """
    original = type(module)

    class Replaced(original):  # type: ignore[misc, valid-type]
        def __reduce_ex__(self, protocol: Any) -> Any:
            # copy, deepcopy and pickle make an instance of the class that this names; pickle takes copyreg.__newobj__
            # for the object's own class only.
            with nullcontext() if weights is None else weights.bare():
                function, args, *rest = super().__reduce_ex__(protocol)
            if args[:1] == (Replaced,) and function is copyreg.__newobj__:  # type: ignore[attr-defined]
                function, args = copyreg._reconstructor, (Replaced, object, None)  # type: ignore[attr-defined]
            if weights is not None and self is module and rest:
                rest = [_with_dense_weights(rest[0], weights.dense_copies()), *rest[1:]]
            return function, tuple(original if arg is Replaced else arg for arg in args), *rest

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Replaced, name, getattr(original, name))
    setattr(Replaced, _MARK, original)
    Replaced.forward = _forward_of(module, original, make)
    if weights is not None:
        _show_dense_weights(Replaced, module, weights)
        show_listed(module, weights)
    module.__class__ = Replaced


def is_replaced(module: nn.Module) -> bool:
    """Whether `replace_forward` was called on it, and `restore_forward` was not."""
    return _MARK in vars(type(module))


def restore_forward(module: nn.Module) -> None:
    """Give the module its class back; nothing happens to one that has it."""
    original = vars(type(module)).get(_MARK)
    if original is not None:
        module.__class__ = original
    show_as_they_are(module)


def _forward_of(module: nn.Module, original: type[nn.Module], make: Callable[[Forward], Forward]) -> Forward:
    """The forward of the module's new class."""
    replaced = make(lambda *args, **kwargs: original.forward(module, *args, **kwargs))

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # A replica, made by calling the class (torch's DataParallel), is not the module whose forward was replaced.
        return replaced(*args, **kwargs) if self is module else original.forward(self, *args, **kwargs)

    # Who reads the source (torch.jit.script) or the signature finds those of the forward it had, and its global names.
    shown = FunctionType(forward.__code__, original.forward.__globals__, closure=forward.__closure__)
    return update_wrapper(shown, original.forward)


def _show_dense_weights(replaced: Any, module: nn.Module, weights: Weights) -> None:
    """Attributes and ``state_dict`` of the module are those of one with dense weights."""
    original = vars(replaced)[_MARK]

    def save(self: nn.Module, destination: Any, prefix: str, keep_vars: bool) -> None:
        original._save_to_state_dict(self, destination, prefix, keep_vars)
        if self is module:
            destination.update({prefix + name: dense for name, dense in weights.dense_tensors().items()})

    def load(self: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
        if self is module:
            given = {name: state_dict.get(prefix + name) for name in weights.weights}
            loaded = weights.to_load({name: value for name, value in given.items() if isinstance(value, Tensor)})
            state_dict = {**state_dict, **{prefix + name: value for name, value in loaded.items()}}
        original._load_from_state_dict(self, state_dict, prefix, *rest)

    def apply(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with weights.bare() if self is module else nullcontext():
            return original._apply(self, *args, **kwargs)

    def prepare_scriptable(self: nn.Module) -> nn.Module:
        if self is module:
            weights.share()
        return self

    def attribute(name: str) -> property:
        return property(lambda self: weights.read(name) if self is module else self._parameters[name])

    replaced._save_to_state_dict, replaced._load_from_state_dict, replaced._apply = save, load, apply
    for name in weights.weights:
        setattr(replaced, name, attribute(name))
    # What torch.jit.script calls first; it compiles all properties but these, which it reads once.
    replaced.__prepare_scriptable__ = prepare_scriptable
    replaced.__jit_unused_properties__ = [*getattr(original, "__jit_unused_properties__", []), *weights.weights]


def _with_dense_weights(state: Any, dense: dict[str, Tensor]) -> Any:
    """A module's state, as it is copied, with these in the place of its parameters."""
    if not dense or not isinstance(state, dict):
        return state
    parameters = dict(state["_parameters"])
    for name, tensor in dense.items():
        parameters[name] = nn.Parameter(tensor, parameters[name].requires_grad)
    state = {**state, "_parameters": parameters}
    if "_flat_weights" in state:  # recurrent modules list their parameters once more
        state["_flat_weights"] = [parameters.get(name) for name in state["_flat_weights_names"]]
    return state
