"""Parameters of a module that are listed, as by ``module.parameters()``, while some are stored in another form."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FrameType
from typing import Any, Protocol

from torch import nn

_LISTS = {"<lambda>", "_named_members", "named_parameters", "parameters"}
_READS_NO_VALUES = (
    "torch.nn.modules.module",  # zero_grad and requires_grad_; state_dict and conversions see to it themselves
    "torch.nn.utils.clip_grad",
    *(f"{flavour}.{part}" for flavour in ("pytorch_lightning", "lightning.pytorch") for part in ("core", "utilities")),
    "rigl_lightning",
)


class Listed(Protocol):
    """Weights of a module that may be stored in another form than others are to see."""

    def listed(self) -> Mapping[str, Any]:
        """What somebody who lists the parameters gets in the place of some of them, by attribute."""


class ListedParameters(dict[str, Any]):
    """The dictionary of a module's parameters: who lists it sees the weights as `Listed` shows them.

    So a penalty over ``module.parameters()`` and an average of them find the shapes that the module has. What looks up
    a name, or needs the parameters as objects only, gets the parameters.
    """

    def __init__(self, parameters: Mapping[str, Any], weights: Listed) -> None:
        super().__init__(parameters)
        self._weights = weights

    def items(self) -> Any:  # dict_items, which has no public name
        """Names and parameters."""
        return self._seen().items()

    def values(self) -> Any:
        """Parameters."""
        return self._seen().values()

    def _seen(self) -> dict[str, Any]:
        parameters = dict(self)
        return parameters if _reads_no_values() else {**parameters, **self._weights.listed()}

    def __reduce__(self) -> Any:  # copies and pickles are plain
        return dict, (dict(self),)


def show_listed(module: nn.Module, weights: Listed) -> None:
    """From now on who lists the module's parameters sees them as ``weights`` shows them."""
    vars(module)["_parameters"] = ListedParameters(module._parameters, weights)


def show_as_they_are(module: nn.Module) -> None:
    """Undo `show_listed`."""
    if isinstance(module._parameters, ListedParameters):
        vars(module)["_parameters"] = dict(module._parameters)


def _reads_no_values() -> bool:
    """Whether who lists is known to look at gradients or identities alone."""
    frame = inspect.currentframe()
    while frame is not None and _is_listing(frame):
        frame = frame.f_back
    reader = "" if frame is None else frame.f_globals.get("__name__", "")
    return any(reader == name or reader.startswith(f"{name}.") for name in _READS_NO_VALUES)


def _is_listing(frame: FrameType) -> bool:
    """Whether it is one of the functions between who lists and the dictionary."""
    module = frame.f_globals.get("__name__")
    return module == __name__ or (module == nn.Module.__module__ and frame.f_code.co_name in _LISTS)
