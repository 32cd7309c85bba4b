"""Settings: what all frozen dataclasses of settings share: plain numbers, one form of refusal, and their text."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial, wraps
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from rigl_lightning.base.errors import SettingError, SettingTypeError

_Class = TypeVar("_Class", bound=type)


def plain(value: Any) -> Any:
    """Python's own number for one of numpy or torch, also inside a list, tuple or mapping; all else as it is.

    >>> plain(np.float64(0.5)), plain((np.int64(2), "fc"))
    (0.5, (2, 'fc'))
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0):
        return value.item()
    if isinstance(value, Mapping):
        changed = {key: plain(entry) for key, entry in value.items()}
        return value if all(changed[key] is value[key] for key in value) else changed
    if type(value) in (list, tuple):
        entries = [plain(entry) for entry in value]
        return value if all(map(lambda a, b: a is b, entries, value)) else type(value)(entries)
    return value


def check_settings(settings: Any) -> None:
    """Make the numbers of a frozen dataclass Python's own, and refuse values of another kind than the default.

    Call it first in ``__post_init__``: a number of numpy is equal to another and reads differently, which checkpoints
    and the sense of a point (step or fraction) depend on.

    Raises:
        ValueError: If a field is a word, a number, a list or a class and its default an object or a function, or if
            the default is a number, a truth value, a list or a mapping, and the field is none.
    """
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        number = plain(value)
        if number is not value:
            object.__setattr__(settings, setting.name, number)
        default = _default(setting)
        if isinstance(default, tuple) and not isinstance(number, list | tuple | set | frozenset):
            raise SettingError(f"Expected `{setting.name}` to be a list, got {number!r}. Use brackets.")
        expected = _expected(number, default)
        if expected:
            got = f"the class {value.__name__}, without brackets" if isinstance(value, type) else repr(value)
            raise SettingError(
                f"Expected `{setting.name}` to be {expected}, got {got}. "
                f"Set `{setting.name}` of {type(settings).__name__}."
            )


def _expected(value: Any, default: Any) -> str:
    """What a setting with this default should be, if the value is of another kind; else nothing."""
    if is_dataclass(default) or callable(default):
        other = isinstance(value, str | int | float | type | list | tuple | Mapping | None)
        return f"one such as {describe(default)}" if other else ""
    if isinstance(default, Mapping):
        return "" if isinstance(value, Mapping) else "a mapping"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(default, int | float):  # a ramp may be in its place
        accepted = isinstance(value, int | float) or (is_dataclass(value) and not isinstance(value, type))
        return "" if accepted else "a number"
    return ""


def checked_length(total_steps: Any) -> int | None:
    """The length of the training in steps, if it is known.

    Raises:
        ValueError: Unless it is a whole number, at least 0, or None.
    """
    steps = plain(total_steps)
    if steps is None or (type(steps) is int and steps >= 0):
        return steps
    raise SettingError(
        f"Expected the number of optimizer steps of the training, got {steps!r}. Set `total_steps` of Sparsifier."
    )


def checked_seed(seed: Any) -> int:
    """The seed as Python's own number.

    Raises:
        ValueError: Unless it is a whole number.
    """
    number = plain(seed)
    if type(number) is int:
        return number
    raise SettingError(f"Expected `seed` to be a whole number, got {number!r}. Set `seed` of Sparsifier.")


def require(accepted: bool, settings: Any, name: str, expected: str, owner: str | None = None) -> None:
    """Refuse a setting of an algorithm, or of another class that a user makes.

    Args:
        accepted: Whether it may be as it is.
        settings: What has the setting, such as the algorithm.
        name: The setting.
        expected: What would be right, such as "in [0, 1]".
        owner: The class that the user sets it of; None for that of the settings.

    Raises:
        ValueError: Unless it is accepted.
    """
    if not accepted:
        got, place = getattr(settings, name), owner or type(settings).__name__
        raise SettingError(f"Expected `{name}` {expected}, got {got!r}. Set `{name}` of {place}.")


def called_outside(**words: str) -> Callable[[_Class], _Class]:
    """Class decorator of a dataclass: the command line and saved configurations know a field by another word.

    `describe` uses it too, as resumed runs compare that text. Python takes both names. The command line keeps settings
    of the same name when only the algorithm of a configuration changes, which would be wrong for such a field.

    >>> from dataclasses import dataclass
    >>> @called_outside(schedule="ramp")
    ... @dataclass
    ... class Pruning:
    ...     schedule: int = 1
    >>> Pruning(ramp=2) == Pruning(schedule=2), describe(Pruning(2))
    (True, 'Pruning(ramp=2)')
    """
    names = {word: name for name, word in words.items()}

    def decorate(cls: _Class) -> _Class:
        own: Any = vars(cls)["__init__"]

        @wraps(own)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            for word, name in names.items():
                if word in kwargs and name in kwargs:
                    raise SettingTypeError(f"{cls.__name__}: `{word}` is `{name}`, which is given too. Leave one out.")
            own(self, *args, **{names.get(key, key): value for key, value in kwargs.items()})

        defaults = {setting.name: _default(setting) for setting in fields(cls)}
        init.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                p.replace(name=words[p.name], default=defaults[p.name]) if p.name in words else p
                for p in inspect.signature(own).parameters.values()
            ]
        )
        cls.__init__ = init  # type: ignore[misc]
        cls.outside_words = words  # type: ignore[attr-defined]
        return cls

    return decorate


def describe(value: Any) -> str:
    """An algorithm in words: its class and the settings that differ from their defaults.

    >>> from rigl_lightning import RigL, UpdateSchedule
    >>> describe(RigL(sparsity=0.8, schedule=UpdateSchedule(interval=50)))
    'RigL(sparsity=0.8, schedule=UpdateSchedule(interval=50))'
    """
    if is_dataclass(value):
        words = getattr(value, "outside_words", {})
        settings = ", ".join(
            f"{words.get(f.name, f.name)}={describe(getattr(value, f.name))}"
            for f in fields(value)
            if f.default is f.default_factory is MISSING or getattr(value, f.name) != _default(f)
        )
        return f"{type(value).__name__}({settings})"
    if isinstance(value, partial):
        arguments = [*map(describe, value.args), *(f"{k}={describe(v)}" for k, v in value.keywords.items())]
        return f"partial({', '.join([describe(value.func), *arguments])})"
    value = plain(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {describe(entry)}' for key, entry in value.items())}}}"
    has_repr = type(value).__repr__ is not object.__repr__  # type: ignore[comparison-overlap]
    if not has_repr:  # it would show a memory address, another one in every process
        return type(value).__qualname__
    return getattr(value, "__qualname__", None) or repr(value)


def _default(setting: "Field[Any]") -> Any:
    """What a field is if nobody sets it; MISSING if it has to be set."""
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def differences(settings: Any, saved: str) -> str:
    """What differs between settings and the text that `describe` once made of others, with both values.

    >>> from rigl_lightning import RigL
    >>> differences(RigL(sparsity=0.9), "RigL(sparsity=0.8, drop_fraction=0.5)")
    'sparsity 0.8 there and 0.9 here, drop_fraction 0.5 there and 0.3 here'
    """
    name, _, rest = saved.partition("(")
    if name != type(settings).__name__ or not is_dataclass(settings):
        return f"{saved} there and {describe(settings)} here"
    there, known = _split(rest.removesuffix(")")), {}
    words = getattr(settings, "outside_words", {})
    for setting in fields(settings):
        word = words.get(setting.name, setting.name)
        default = _default(setting)
        here = describe(getattr(settings, setting.name))
        known[word] = (there.get(word, here if default is MISSING else describe(default)), here)
    unknown = {word: (value, "unknown") for word, value in there.items() if word not in known}
    return ", ".join(f"{w} {old} there and {new} here" for w, (old, new) in {**known, **unknown}.items() if old != new)


def check_same(settings: Any, saved: str) -> None:
    """Refuse to resume with another algorithm.

    Raises:
        ValueError: Unless ``saved`` is what `describe` makes of the settings.
    """
    if describe(settings) != saved:
        raise SettingError(
            f"Expected the algorithm of the run that is resumed, {saved}, got {describe(settings)}: "
            f"{differences(settings, saved)}. Set the algorithm as in that run, or start a new run."
        )


def check_same_value(name: str, here: Any, saved: Any) -> None:
    """Refuse to resume with another value of a setting that is none of the algorithm's.

    Raises:
        ValueError: If it differs from the saved one.
    """
    if here != saved:
        raise SettingError(
            f"Expected the `{name}` of the run that is resumed, {saved!r}, got {here!r}. Set it as in that run, or "
            "start a new run."
        )


def _split(text: str) -> dict[str, str]:
    """The settings in the brackets of a description, by name."""
    depth, entries = 0, [""]
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            entries.append("")
        else:
            entries[-1] += letter
    pairs = (entry.strip().partition("=") for entry in entries if entry.strip())
    return {name: value for name, _, value in pairs}
