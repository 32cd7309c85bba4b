"""Values that a setting does not take, and what it does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from rigl_lightning.base.classes import subclasses
from rigl_lightning.base.suggestions import closest, with_suggestion
from rigl_lightning.cli.given import Given, class_named, default_of
from rigl_lightning.cli.suggestions import GROUPS, choices, dotted_path, functions_beside

_NO_PATH = r"(?:- Expected a (?:config )?path but .*? - )?"
_KINDS = re.compile(
    rf'key "([\w.]+)": {_NO_PATH}'
    r"(?:Does not validate.*?Subtypes: \[(.*?)\] Errors: (.*) Given value type:.* Given value:"
    r"|Expected an? (.*?)()\. Got value:) (.*)"
)
_EXPLAINED = re.compile(
    r"Expected a |Not a valid subclass|Not of type|(?:Import|Unexpected import) path|Problem with given class_path"
    r"|a class path|a dict with"
)
"""Reasons for the refusal of a value that the types say already."""
_LONGEST = 60
"""Characters of a wrong value that are shown."""
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
    "PositiveInt": "a whole number above 0",
    "PositiveFloat": "a number above 0",
    "Path": "a path",
    "timedelta": "",
    **dict.fromkeys(("list[", "List[", "Sequence[", "Iterable[", "tuple"), "a list"),
    **dict.fromkeys(("dict[", "Dict[", "Mapping["), "a dict"),
}


def wrong_form(line: str, typed: Given) -> str | None:
    """A value of another kind than the setting's.

    >>> wrong_form('Parser key "sparse.exclude": Expected a <class Sequence>. Got value: head', Given([]))
    'Expected --sparse.exclude to be a list, got head. Set --sparse.exclude [head]'
    >>> wrong_form('Parser key "sizes": Expected a tuple with 3 elements. Got value: [1, 8]', Given([]))
    'Expected --sizes to be a list of 3, got [1, 8].'
    """
    listed = re.search(r'key "([\w.]+)": Expected a <class .*Sequence.*>. Got value: (\S+)', line)
    if listed:
        option = option_of(listed[1], typed, listed[2])
        return f"Expected {option} to be a list, got {listed[2]}. Set {option} [{listed[2]}]"
    counted = re.search(r'key "([\w.]+)": Expected a tuple with (\d+) elements?\. Got value: (.*)', line)
    if counted:
        return f"Expected {option_of(counted[1], typed)} to be a list of {counted[2]}, got {counted[3]}."
    restricted = re.search(r"""key "([\w.]+)": Not of type (\w+): .*?([^\s']+)(?:'| does not conform.*)$""", line)
    if restricted:
        expected = _WORDS.get(restricted[2], restricted[2])
        return f"Expected {option_of(restricted[1], typed)} to be {expected}, got {restricted[3]!r}."
    return _wrong_kind(line, typed) or _no_function(line, typed)


def _no_function(line: str, typed: Given) -> str | None:
    """A word that is no dotted path, or the path of something that cannot be called."""
    path = re.search(rf'(?:key "|--)([\w.]+)"?: {_NO_PATH}Expected a dot import path string: (\S+)', line)
    if path:
        option = option_of(path[1], typed, path[2])
        told = f"Expected {option} to be a dotted path, got {path[2]!r}"
        where = dotted_path(path[2])
        if where:
            return f"{told}. Did you mean {where!r}?"
        owner = typed.owner(option.lstrip("-"))
        beside = functions_beside(default_of(owner, option.rpartition(".")[2])) if owner else []
        names = [*(name for base in (*GROUPS.values(), nn.Module) for name in choices(base)), *beside]
        return with_suggestion(told, path[2], names)
    called = re.search(r'key "([\w.]+)":.*function or a callable class: (.*?)\.*\. Got value: (.*)', line)
    if called is None:
        return None
    got = f"got {called[3]!r}" if len(called[3].split()) == 1 and "(" not in called[3] else "got something else"
    return f"Expected {option_of(called[1], typed)} to be the dotted path of a function or a class to call, {got}."


def _wrong_kind(line: str, typed: Given) -> str | None:
    """A value of no type of the setting's, and why a class that was named is none."""
    kinds = _KINDS.search(line)
    if kinds is None or not (expected := in_words(types := kinds[2] or kinds[4])):
        return None
    key, reasons = kinds[1], kinds[3] or ""
    given = re.sub(r"NestedArg\(key='[^']*', val='([^']*)'\)", r"\1", kinds[6])  # of older jsonargparse
    value = given if len(given) <= _LONGEST else f"{given[:_LONGEST]}..."
    bases = [*_classes_in(types)]
    told = f"Expected {option_of(key, typed, given)} to be {expected}, got {value!r}"
    failed = next((r for r in re.split(r"(?:^| )- ", reasons) if r and not _EXPLAINED.match(r)), None)
    if failed:
        return f"{told}, which fails: {failed}."
    if key == "model" and issubclass(class_named(given) or type(None), nn.Module):
        return f"{told}. To train this network, set --model ImageClassifier --model.model {given}."
    if "does not correspond to a subclass" in reasons:
        return f"{told}, which is none."
    return with_suggestion(told, given, [c.__name__ for base in bases for c in subclasses(base)])


def in_words(types: str) -> str:
    """Types as jsonargparse prints them, in words; "" if there is none for one of them.

    >>> in_words("<class 'int'>, <class 'NoneType'>")
    'a whole number or null'
    >>> in_words("typing.Literal['auto', 'sparse']")
    "one of 'auto', 'sparse'"
    >>> in_words("<class 'rigl_lightning.sparsity.density_scaling.ByDensity'>, <class 'NoneType'>")
    'settings of its own (.init, .learning_rate) or null'
    """
    values = ", ".join(re.findall(r"Literal\[(.*?)\]", types))
    names = re.findall(r"<class '([\w.]+)'>|((?:list|List|Sequence|Iterable|dict|Dict|Mapping)\[)", types)
    words = [_in_words(name or listed) for name, listed in names]
    unique = list(dict.fromkeys([*([f"one of {values}"] if values else []), *filter(None, words)]))
    unique.sort(key="null".__eq__)  # that last
    return " or ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)


def _in_words(path: str) -> str:
    kind, name = class_named(path), path.rpartition(".")[2]
    if kind and is_dataclass(kind) and not kind.__subclasses__():
        return f"settings of its own ({', '.join(f'.{setting.name}' for setting in fields(kind))})"
    return _WORDS.get(name, f"the dotted path of a {name}")


def _classes_in(types: str) -> Iterable[type]:
    """Classes of this package and of Lightning that are named in a message."""
    for module, name in re.findall(r"([\w.]+)\.(\w+)", types):
        found: Any = class_named(f"{module}.{name}")
        if found is not None and module != "builtins":
            yield found


def without_class(line: str, typed: Given) -> str | None:
    """A class and its settings that are not nested as class_path and init_args.

    >>> text = '''key "model": Not a valid subclass of Net. Got value: {'class_path': 'a.Net', 'width': 3} Subclass'''
    >>> without_class(text, Given([]))
    'Expected --model to have class_path and init_args, got class_path, width. Put width under init_args.'
    """
    found = re.search(r'key "([\w.]+)":.*Not a valid subclass of \w+\. Got value: (\{.*\}) Subclass', line)
    if found is None:
        return None
    keys = _keys(found[2])
    others = [key for key in keys if key not in ("class_path", "init_args")]
    do = f"Put {', '.join(others)} under init_args." if "class_path" in keys else "Add class_path: NAME."
    told = f"Expected {option_of(found[1], typed)} to have class_path and init_args, got {', '.join(keys)}"
    return with_suggestion(told, others[0], ["class_path", "init_args"]) if _is_near(others) else f"{told}. {do}"


def _keys(text: str) -> list[str]:
    """Keys of a printed dict, without those of the dicts in it.

    >>> _keys("{'a': {'b': {}, 'c': 1}, 'd': 2}")
    ['a', 'd']
    """
    depth, outer = 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in ")]}")
        outer += letter if depth == 1 else ""
    return re.findall(r"'(\w+)':", outer)


def _is_near(keys: Sequence[str]) -> bool:
    return any(closest(key, ["class_path", "init_args"]) for key in keys[:1])


def no_group(line: str, options: Sequence[str], typed: Given) -> str | None:
    """A word or a number where a group of settings belongs.

    >>> no_group('''Parser key "schedule": Unable to load config '10' ''', [], Given([]))
    "Expected --sparse.algorithm.schedule to have settings of its own, got '10'. Set its .interval, .begin or .end."
    """
    found = re.search(r"""key "([\w.]+)": Unable to load config ['"]([^'"]*)['"]""", line)
    if found is None:
        return None
    option, value = option_of(found[1], typed, found[2]), found[2]
    own = [name for name in options if name.startswith(f"{option}.") and "." not in name.removeprefix(f"{option}.")]
    told = f"Expected {option} to have settings of its own, got {value!r}. "
    if value in choices(GROUPS["algorithm"]):
        return f"{told}Did you mean '{option}.algorithm {value}'?"
    return f"{told}Set {', '.join(own[:4])}." if own else f"{told}Set its .interval, .begin or .end."


def option_of(key: str, typed: Given | None = None, value: str | None = None) -> str:
    """The option of a key, which may lack what comes before the settings of an algorithm or of a part of it.

    >>> option_of("kernel"), option_of("schedule.end"), option_of("trainer.max_steps")
    ('--sparse.algorithm.distribution.kernel', '--sparse.algorithm.schedule.end', '--trainer.max_steps')
    """
    whole = typed.whole(key, value) if typed else None
    if whole and "." in whole:
        return f"--{whole}"
    first = key.split(".")[0]
    for part, base in GROUPS.items():
        if first != "algorithm" and any(first in getattr(c, "__dataclass_fields__", ()) for c in subclasses(base)):
            return f"--sparse.algorithm.{'' if part == 'algorithm' else f'{part}.'}{key}"
    return f"--{key}"
