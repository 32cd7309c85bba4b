"""What is wrong with a command, in one line that names the setting."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rigl_lightning.base.suggestions import with_suggestion
from rigl_lightning.cli.configs import config_files
from rigl_lightning.cli.given import Given
from rigl_lightning.cli.suggestions import ALIASES, GROUPS, choices, dotted_path
from rigl_lightning.cli.unknown_options import unknown_option
from rigl_lightning.cli.wrong_values import no_group, option_of, without_class, wrong_form

_COMMANDS = {"train": "fit", "eval": "test", "evaluate": "test"}
"""Commands of other programs."""
_START = " Start from a configuration: --config NAME; `rigl-lightning configs` lists them."


def explain_parse_error(message: str, options: Iterable[str] = (), given: Sequence[str] = ()) -> str:
    """A parser's message as one line, with the closest known name where a name is wrong.

    Args:
        message: What jsonargparse says, often over many lines.
        options: All options of the command, such as ``--sparse.algorithm``.
        given: The arguments of the command: a message about a class inside another names its setting without the first
            parts, and whoever has typed it has named it whole.

    >>> explain_parse_error("unrecognized arguments: --sparse.algoritm RigL", ["--sparse.algorithm"])
    "Expected a setting of SparseTrainingCallback, got --sparse.algoritm. Did you mean '--sparse.algorithm'?"
    """
    line, typed = " ".join(message.split()), Given(given)
    explanations: tuple[Callable[[], str | None], ...] = (
        lambda: _unknown_kind(line),
        lambda: _no_configuration(line),
        lambda: _bare_word(line),
        lambda: unknown_option(line, [*options], typed, [*given]),
        lambda: _no_value(line, given),
        lambda: _unknown_command(line),
        lambda: _unknown_class(line, typed),
        lambda: _missing_settings(line, typed),
        lambda: without_class(line, typed),
        lambda: no_group(line, [*options], typed),
        lambda: wrong_form(line, typed),
    )
    return next(filter(None, (explain() for explain in explanations)), line)


def _unknown_kind(line: str) -> str | None:
    """An algorithm, a distribution or a structure that does not exist.

    >>> told = _unknown_kind('key "distribution": Expected an instantiatable class, but Distribution is abstract')
    >>> told.partition(" or ")[2]
    'the dotted path of a class, with class_path and init_args in a file; got none of these.'
    """
    for key, base in GROUPS.items():
        unnamed = (
            r"(?:dot import path string: |import path format: |instantiatable class, but |Import path (?=\S+ does)"
            r"|Not a valid subclass of \w+\. Got value: (?!\{))(\S+)"
        )
        unknown = re.search(rf'key "(?:[\w.]*\.)?{key}":.*?{unnamed}', line)
        if unknown is None:
            continue
        wrong, names = unknown[1], choices(base)
        told = (
            f"Expected --sparse.algorithm{'' if key == 'algorithm' else '.' + key} to be one of "
            f"{', '.join(names)}, or the dotted path of a class"
        )
        if wrong.rpartition(".")[2] == base.__name__:  # what jsonargparse tries without a class
            return f"{told}, with class_path and init_args in a file; got none of these."
        why = f", which is no {base.__name__}" if "does not correspond" in line else ""
        return with_suggestion(f"{told}, got {wrong!r}{why}{ALIASES.get(wrong.upper(), '')}", wrong, names)
    return None


def _no_configuration(line: str) -> str | None:
    absent = re.search(r"""key "config": File does not exist: '([^']+)'""", line)
    if absent is None:
        return None
    names, stem = sorted(config_files()), Path(absent[1]).stem
    whole = [name for name in names if "/" not in name]
    told = (
        f"Expected a configuration file, found none at {absent[1]}. Set --config to a file, or to one of the package, "
        f"such as {', '.join(whole)} (`rigl-lightning configs` lists all)"
    )
    return f"{told}. Did you mean {stem!r}?" if stem in names else with_suggestion(told, stem, names)


def _bare_word(line: str) -> str | None:
    bare = re.fullmatch(r"[Uu]nrecognized arguments: ([\w./]+)", line)
    return f"Expected options, got {bare[1]!r}. Did you mean '--config {bare[1]}'?" if bare else None


def _no_value(line: str, given: Sequence[str]) -> str | None:
    """An option without a value.

    >>> _no_value("argument --trainer.max_steps: expected one argument", [])
    'Expected a value after --trainer.max_steps, got none.'
    """
    found = re.search(r"argument (?:-c/)?(--[\w.+-]+): expected one argument", line)
    if found is None:
        return None
    longer = [arg for arg in given if arg.startswith(f"{found[1]}.")]
    return f"Expected a value after {longer[-1] if longer else found[1]}, got none."


def _unknown_command(line: str) -> str | None:
    """No subcommand, or one that does not exist.

    >>> _unknown_command("argument subcommand: invalid choice: 'fti' (choose from 'fit', 'test')")
    "Expected a command of configs, fit, test, got 'fti'. Did you mean 'fit'?"
    """
    wrong = re.search(r"subcommand: invalid choice: '([^']*)' \(choose from (.*)\)", line)
    if wrong:
        names = ["configs", *wrong[2].replace("'", "").split(", ")]
        told = f"Expected a command of {', '.join(names)}, got {wrong[1]!r}"
        if wrong[1] in _COMMANDS:
            return f"{told}. Did you mean {_COMMANDS[wrong[1]]!r}?"
        return with_suggestion(told, wrong[1], names)
    if 'expected "subcommand"' in line:
        return "Expected a command, such as configs, inspect or fit. `rigl-lightning --help` says where to begin."
    return None


def _unknown_class(line: str, typed: Given) -> str | None:
    """A class or function that is not where its dotted path says, or whose file imports what is not installed.

    >>> text = '''Parser key "model": Problem with given class_path 'absent.Net': No module named 'absent' '''
    >>> _unknown_class(text, Given([]))
    "Expected --model to be a dotted path, got 'absent.Net': No module named 'absent' (absent.py may be here)."
    """
    why = r"((?:[Mm]odule '[\w.]+' has no attribute|No module named) '([\w.]+)')"
    found = re.search(rf"""key "([\w.]+)".*class_path '([\w.]+)': {why}""", line)
    found = found or re.search(
        rf"""key "(?:[\w.]+\.)?(\w+)".*function or a callable class: (?=.*value: ([\w.]+)){why}""", line
    )
    if found is None:
        return None
    key, path, reason, absent = found.groups()
    module, _, name = path.rpartition(".")
    first = module.split(".")[0]
    known = dir(sys.modules[module]) if module in sys.modules else []
    where = "" if known else f" ({first}.py may be here)" if absent.split(".")[0] == first else f", which {first} needs"
    told = f"Expected {option_of(key, typed, path)} to be a dotted path, got {path!r}: {reason}{where}"
    right = dotted_path(name)
    return f"{told}. Did you mean {right!r}?" if right and known else with_suggestion(told, name, known)


def _missing_settings(line: str, typed: Given) -> str | None:
    """Settings that have no default, and how to begin.

    >>> _missing_settings("the following arguments are required: fit.data", Given([]))
    'Expected also --data. Start from a configuration: --config NAME; `rigl-lightning configs` lists them.'
    >>> _missing_settings("the following arguments are required: checkpoint", Given([]))
    'Expected also --sparse.algorithm.checkpoint.'
    """
    found = re.search(r"following arguments are required: (.*)|Option '([\w.]+)' is required but not provided", line)
    if found is None:
        return None
    names = (found[1] or found[2]).split(", ")
    place = typed.lacking(names)
    options = ", ".join(f"--{place}.{n}" if place else option_of(n.split(".", 1)[-1], typed) for n in names)
    begins = "." in names[0] and not typed.whole("class_path") and not any(n == "config" for n, _ in typed.entries)
    return f"Expected also {options}.{_START if begins else ''}"
