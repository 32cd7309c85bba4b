"""What a user has typed: settings by their whole names, and the classes they belong to, in arguments and files.

jsonargparse names a setting of a class inside another by its last part, and a class not at all.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytorch_lightning as pl
import yaml
from pytorch_lightning.loggers import Logger
from torch import nn

from rigl_lightning.base.classes import subclasses
from rigl_lightning.base.errors import SettingError
from rigl_lightning.cli.configs import config_paths
from rigl_lightning.cli.suggestions import GROUPS
from rigl_lightning.trainer.callback import SparseTrainingCallback

_BASES: tuple[type, ...] = (
    *GROUPS.values(),
    *(pl.LightningModule, pl.LightningDataModule, pl.Callback, Logger, nn.Module),
)
"""Bases of the classes that configurations name."""
_CALLBACKS = "trainer.callbacks"
_CLASS_OF_GROUP: dict[str, type] = {"sparse": SparseTrainingCallback}
TOP = ("sparse", "trainer", "model", "data")
"""Groups of options whose settings may belong to a class that is named."""
Entries = list[tuple[str, Any]]


class Given:
    """Settings of a command: those of its configuration files, then those of its arguments.

    Args:
        args: The arguments of the command; files that cannot be read count as empty.

    >>> given = Given(["fit", "--model.model", "LeNet300100", "--model.model.init_args.classes=3"])
    >>> given.whole("classes"), given.owner("model.model.classes").__name__
    ('model.model.classes', 'LeNet300100')
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.entries = [entry for path in config_paths(args) for entry in _in_file(path)] + list(_in_arguments(args))

    def whole(self, part: str, value: str | None = None) -> str | None:
        """The whole name of the setting given last whose name ends with this part, of this value if one is named."""
        found = [(n, v) for n, v in self.entries if n == part or n.endswith(f".{part}")]
        of_value = [name for name, given in found if str(given) == value]
        return next(reversed(of_value or [name for name, _ in found]), None)

    @cached_property
    def classes(self) -> dict[str, list[type]]:
        """Classes by the names of the settings they were given for; a list of callbacks has one name."""
        found: dict[str, list[type]] = {}
        for name, value in self.entries:
            kind = class_named(value) if isinstance(value, str) and name.split(".")[0] in TOP else None
            if kind is not None:
                found.setdefault(name, []).append(kind)
        return found

    def owner(self, name: str) -> type | None:
        """The class that a setting is one of, if it was named: RigL for ``sparse.algorithm.sparsity``."""
        place, _, _ = name.rpartition(".")
        if place in _CLASS_OF_GROUP:
            return _CLASS_OF_GROUP[place]
        named = self.classes.get(place)
        if named or "." not in place:
            return named[-1] if named else None
        outer = self.owner(place)
        return outer and group_of(outer, place.rpartition(".")[2])

    def lacking(self, names: Sequence[str]) -> str | None:
        """The setting whose class has no default for these arguments."""
        for place, kinds in reversed(self.classes.items()):
            if any(all(name in required(kind) for name in names) for kind in kinds):
                return place
        return None

    def settings_of_classes(self) -> list[str]:
        """Whole names of all settings of the classes that were named."""
        found = []
        for place, kinds in self.classes.items():
            for name in settings_of(kinds[-1]):
                group = group_of(kinds[-1], name)
                found += [f"{place}.{name}", *(f"{place}.{name}.{inner}" for inner in settings_of(group or object))]
        return found

    def refuse_second_callback(self) -> None:
        """Refuse a SparseTrainingCallback under ``trainer.callbacks`` that has no name of its own.

        Raises:
            SettingError: Saying where its settings belong.
        """
        callbacks = [class_named(str(value), (pl.Callback,)) for name, value in self.entries if name == _CALLBACKS]
        named = any(name == f"{_CALLBACKS}.name" for name, _ in self.entries)
        if not named and any(kind and issubclass(kind, SparseTrainingCallback) for kind in callbacks):
            raise SettingError(
                "Expected SparseTrainingCallback once, as the group `sparse`, got one under --trainer.callbacks too. "
                "Remove it there, and set --sparse.algorithm and the other settings of --sparse; a second one, for "
                "another optimizer, needs a --trainer.callbacks.name."
            )


def class_named(text: str, bases: Sequence[type] = _BASES) -> type | None:
    """A class by its dotted path, or one of these kinds by its name; nothing is imported."""
    module, _, name = text.rpartition(".")
    if module:
        found = getattr(sys.modules.get(module), name, None)
        return found if isinstance(found, type) else None
    return next((kind for base in bases for kind in subclasses(base) if kind.__name__ == text), None)


def settings_of(kind: type) -> list[str]:
    """Names of the arguments of a class, those that it passes on to its bases too."""
    return [parameter.name for parameter in _parameters(kind)]


def required(kind: type) -> list[str]:
    """Names of its arguments without a default."""
    return [parameter.name for parameter in _parameters(kind) if parameter.default is inspect.Parameter.empty]


def group_of(kind: type, name: str) -> type | None:
    """The class of an argument that has settings of its own and needs no class to be named."""
    default = default_of(kind, name)
    if is_dataclass(default) or name not in settings_of(kind):
        return type(default) if is_dataclass(default) else None
    try:
        hint = get_type_hints(vars(kind)["__init__"]).get(name)
    except (NameError, TypeError, KeyError):  # annotations that are there for type checkers only
        return None
    found = [c for c in (hint, *get_args(hint)) if is_dataclass(c) and isinstance(c, type)]
    return found[0] if found else None


def default_of(kind: type, name: str) -> Any:
    """What an argument is where nobody sets it; None if it has no default or does not exist."""
    words = getattr(kind, "outside_words", {})
    for setting in fields(kind) if is_dataclass(kind) else ():
        if words.get(setting.name, setting.name) == name:
            made = setting.default_factory
            return made() if made is not MISSING else None if setting.default is MISSING else setting.default
    return next((p.default for p in _parameters(kind) if p.name == name and p.default is not p.empty), None)


def _parameters(kind: type) -> list[inspect.Parameter]:
    found: dict[str, inspect.Parameter] = {}
    for cls in kind.__mro__:
        if "__init__" not in vars(cls):
            continue
        own = [*inspect.signature(vars(cls)["__init__"]).parameters.values()][1:]
        found = {**{p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in own):
            break
    return list(found.values())


def _in_arguments(args: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for i, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option.startswith("--"):
            follows = args[i + 1] if i + 1 < len(args) and not args[i + 1].startswith("--") else None
            yield _name(option.lstrip("-").rstrip("+")), value if equals else follows


def _in_file(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return
    yield from _flat("", content)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(_name(f"{name}.{key}".lstrip(".")), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(name, inner)
    else:
        yield name, value


def _name(key: str) -> str:
    """A setting's name without the words that a file has between a class and its settings."""
    return ".".join(part for part in key.split(".") if part not in ("init_args", "class_path"))
