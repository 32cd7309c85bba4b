"""What is wrong with a command, in one line that names the setting."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytorch_lightning as pl

from rigl_lightning.cli.configs import config_files
from rigl_lightning.cli.help import is_base
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.distributions import Distribution
from rigl_lightning.sparsity.structures import Structure

_KINDS = re.compile(
    r'key "([\w.]+)": (?:- Expected a (?:config )?path but .*? - )?'
    r"(?:Does not validate.*?Subtypes: \[(.*?)\] Errors:.*Given value:|Expected an? (.*?)\. Got value:) (.*)"
)
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
    **dict.fromkeys(("list[", "List[", "Sequence[", "Iterable["), "a list"),
    **dict.fromkeys(("dict[", "Dict[", "Mapping["), "a dict"),
}
_COMMANDS = {"train": "fit", "eval": "test", "evaluate": "test"}
"""Commands of other programs."""
_CLASSES = {"algorithm": SparseAlgorithm, "distribution": Distribution, "structure": Structure}
# Names of papers that are settings here.
_ALIASES = {
    "ERK": ". ERK is ErdosRenyi",
    "ER": ". ER is ErdosRenyi with --sparse.algorithm.distribution.kernel false",
    "SRIGL": ". SRigL is RigL with --sparse.algorithm.structure ConstantFanIn",
    "ITOP": ". ITOP is RigLITOP or SETITOP",
}


def explain_parse_error(message: str, options: Iterable[str] = (), given: Sequence[str] = ()) -> str:
    """A parser's message as one line, with the closest known name where a name is wrong.

    Args:
        message: What jsonargparse says, often over many lines.
        options: All options of the command, such as ``--sparse.algorithm``.
        given: The arguments of the command: a message about a class inside another names its setting without the first
            parts, and whoever has typed it has named it whole.

    >>> explain_parse_error("unrecognized arguments: --sparse.algoritm RigL", ["--sparse.algorithm"])
    "unrecognized arguments: --sparse.algoritm RigL. Did you mean '--sparse.algorithm'?"
    """
    for key, base in _CLASSES.items():
        unnamed = r"(?:dot import path string: |instantiatable class, but )(\S+)"
        unknown = re.search(rf'key "(?:[\w.]*\.)?{key}":.*{unnamed}', message, re.DOTALL)
        if unknown:
            names = sorted(c.__name__ for c in _subclasses(base) if not is_base(c))
            return _with_suggestion(
                f"Expected --sparse.algorithm{'' if key == 'algorithm' else '.' + key} to be one of "
                f"{', '.join(names)}, or the dotted path of a class, got {unknown[1]!r}"
                f"{_ALIASES.get(unknown[1].upper(), '')}",
                unknown[1],
                names,
            )
    line = " ".join(message.split())
    absent = re.search(r"""key "config": File does not exist: '([^']+)'""", line)
    if absent:
        names = sorted(config_files())
        return _with_suggestion(
            f"Expected a configuration file, found none at {absent[1]}. Set --config to a file, or to one of the "
            f"package: {', '.join(names)}",
            Path(absent[1]).stem,
            names,
        )
    bare = re.fullmatch(r"[Uu]nrecognized arguments: ([\w./]+)", line)
    if bare:
        return f"Expected options, got {bare[1]!r}. Did you mean '--config {bare[1]}'?"
    unknown_option = _unknown_option(line, options, given)
    if unknown_option:
        return unknown_option
    told = _unknown_command(line) or _unknown_class(line) or _missing_settings(line) or _wrong_form(line) or line
    return _with_whole_names(told, given)


def _unknown_option(line: str, options: Iterable[str], given: Sequence[str]) -> str | None:
    """An option that the command or the class has not, and the one that is probably meant."""
    option = re.search(
        r"[Oo]ption '([\w.-]+)' is not accepted|does not accept option '([\w.-]+)'"
        r"|[Uu]nrecognized arguments: (--[\w.-]+)",
        line,
    )
    if option is None:
        return None
    wrong = next(filter(None, option.groups()))
    longer = [name for name in (*options, _option(wrong.lstrip("-"))) if name.endswith(f".{wrong.lstrip('-')}")]
    meant = (_nearest_path(wrong, options) if "." in wrong else None) or next(iter(longer), None)
    if meant:
        return f"{line.rstrip('.')}. Did you mean {meant!r}?"
    known = [*options, *([] if wrong.startswith("--") else _setting_names())]
    told = _with_suggestion(line.rstrip("."), wrong, known)
    return told if told.endswith("?") else f"{told}{_where_settings_are_listed(wrong, given)}"


def _where_settings_are_listed(wrong: str, given: Sequence[str]) -> str:
    """How to see the settings of the class that has not this one, if the user has typed it.

    >>> _where_settings_are_listed("root", ["fit", "--data.root", "/data"])
    ' `--data.help CLASS` lists the settings of a class.'
    """
    typed = next((arg.partition("=")[0] for arg in given if arg.partition("=")[0].endswith(f".{wrong}")), None)
    group = typed and typed.split(".")[0].lstrip("-")
    return f" `--{group}.help CLASS` lists the settings of a class." if group in ("model", "data") else ""


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
        return _with_suggestion(told, wrong[1], names)
    if 'expected "subcommand"' in line:
        return "Expected a command, such as configs, inspect or fit. `rigl-lightning --help` says where to begin."
    return None


def _unknown_class(line: str) -> str | None:
    """A class or function that is not where its dotted path says.

    >>> _unknown_class('''Parser key "model": Problem with given class_path 'absent.Net': No module named 'absent' ''')
    "Expected --model to be a dotted path, got 'absent.Net': No module named 'absent' (absent.py may be here)."
    """
    why = r"((?:[Mm]odule '[\w.]+' has no attribute|No module named) '[\w.]+')"
    found = re.search(rf"""key "([\w.]+)".*class_path '([\w.]+)': {why}""", line)
    found = found or re.search(
        rf"""key "(?:[\w.]+\.)?(\w+)".*function or a callable class: (?=.*value: ([\w.]+)){why}""", line
    )
    if found is None:
        return None
    key, path, reason = found.groups()
    module, _, name = path.rpartition(".")
    known = [*vars(sys.modules[module])] if module in sys.modules else []
    where = "" if known else f" ({module.split('.')[0]}.py may be here)"
    return _with_suggestion(f"Expected {_option(key)} to be a dotted path, got {path!r}: {reason}{where}", name, known)


def _missing_settings(line: str) -> str | None:
    """Settings that have no default, and how to begin.

    >>> _missing_settings("the following arguments are required: fit.data")
    'Expected also --data. Start from a configuration: --config NAME; `rigl-lightning configs` lists them.'
    >>> _missing_settings("the following arguments are required: checkpoint")
    'Expected also --sparse.algorithm.checkpoint.'
    """
    found = re.search(r"following arguments are required: (.*)|Option '([\w.]+)' is required but not provided", line)
    if found is None:
        return None
    names = (found[1] or found[2]).split(", ")
    owner = _owner(names)
    options = ", ".join(f"{owner}.{name}" if owner else _option(name.split(".", 1)[-1]) for name in names)
    start = " Start from a configuration: --config NAME; `rigl-lightning configs` lists them."
    return f"Expected also {options}.{start if '.' in names[0] else ''}"


def _with_whole_names(line: str, given: Sequence[str]) -> str:
    """A setting by the name that the user has typed, where a message has its last part only.

    >>> _with_whole_names("Expected --every to be a number, got 'x'.", ["--trainer.logger.every", "x"])
    "Expected --trainer.logger.every to be a number, got 'x'."
    """
    told = re.match(r"Expected (?:also )?--([\w.]+)", line)
    typed = [arg.partition("=")[0] for arg in given if told and arg.partition("=")[0].endswith(f".{told[1]}")]
    return line.replace(f"--{told[1]}", typed[0], 1) if told and typed else line


def _owner(names: Sequence[str]) -> str | None:
    """The option of the class that wants these arguments, if it is a known module or DataModule."""
    for option, base in (("--model", pl.LightningModule), ("--data", pl.LightningDataModule)):
        if any({*names} <= inspect.signature(c).parameters.keys() for c in _subclasses(base)):
            return option
    return None


def _wrong_form(line: str) -> str | None:
    """A word where a list belongs, or a number where a schedule does.

    >>> _wrong_form('Parser key "sparse.exclude": Expected a <class Sequence>. Got value: head')
    'Expected --sparse.exclude to be a list, got head. Set --sparse.exclude [head]'
    >>> _wrong_form('''Parser key "schedule": Unable to load config '10' ''')
    "Expected --sparse.algorithm.schedule to have settings of its own, got '10'. Set its .interval, .begin or .end."
    """
    listed = re.search(r'key "([\w.]+)": Expected a <class .*Sequence.*>. Got value: (\S+)', line)
    if listed:
        option = _option(listed[1])
        return f"Expected {option} to be a list, got {listed[2]}. Set {option} [{listed[2]}]"
    path = re.search(r'key "([\w.]+)": Expected a dot import path string: (\S+)', line)
    if path:
        return f"Expected {_option(path[1])} to be a dotted path, got {path[2]!r}."
    restricted = re.search(r"""key "([\w.]+)": Not of type (\w+): .*?([^\s']+)(?:'| does not conform.*)$""", line)
    if restricted:
        expected = _WORDS.get(restricted[2], restricted[2])
        return f"Expected {_option(restricted[1])} to be {expected}, got {restricted[3]!r}."
    kinds = _KINDS.search(line)
    if kinds and (expected := in_words(types := kinds[2] or kinds[3])):
        value = kinds[4] if len(kinds[4]) <= _LONGEST else f"{kinds[4][:_LONGEST]}..."
        names = [c.__name__ for base in _classes_in(types) for c in _subclasses(base)]
        return _with_suggestion(f"Expected {_option(kinds[1])} to be {expected}, got {value!r}", kinds[4], names)
    schedule = re.search(
        r"""key "(?:[\w.]+\.)?(schedule|ramp|renewal|rewiring)": Unable to load config '([^']*)'""", line
    )
    if schedule:
        option = _option(schedule[1])
        return f"Expected {option} to have settings of its own, got {schedule[2]!r}. Set its .interval, .begin or .end."
    return None


def in_words(types: str) -> str:
    """Types as jsonargparse prints them, in words; "" if there is none for one of them.

    >>> in_words("<class 'int'>, <class 'NoneType'>")
    'a whole number or null'
    >>> in_words("typing.Literal['auto', 'sparse']")
    "one of 'auto', 'sparse'"
    """
    values = ", ".join(re.findall(r"Literal\[(.*?)\]", types))
    names = re.findall(r"<class '(?:[\w.]+\.)?(\w+)'>|((?:list|List|Sequence|Iterable|dict|Dict|Mapping)\[)", types)
    words = [_WORDS.get(name or listed, f"the dotted path of a {name}") for name, listed in names]
    unique = list(dict.fromkeys([*([f"one of {values}"] if values else []), *filter(None, words)]))
    unique.sort(key="null".__eq__)  # that last
    return " or ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)


def _classes_in(types: str) -> Iterable[type]:
    """Classes of this package and of Lightning that are named in a message."""
    for module, name in re.findall(r"([\w.]+)\.(\w+)", types):
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and module != "builtins":
            yield found


def _nearest_path(wrong: str, options: Iterable[str]) -> str | None:
    """A dotted option, or key of a YAML file, with the first part that is misspelt replaced by the nearest known one.

    >>> _nearest_path("--modle.learning_rate", ["--model", "--data", "--trainer.max_steps"])
    '--model.learning_rate'
    >>> _nearest_path("trainer.max_step", ["--model", "--data", "--trainer.max_steps"])
    'trainer.max_steps'
    """
    known = {".".join(name.lstrip("-").split(".")[:n]) for name in options for n in range(1, name.count(".") + 2)}
    parts = wrong.lstrip("-").split(".")
    for n in range(1, len(parts) + 1):
        if ".".join(parts[:n]) not in known:
            among = [name for name in known if name.count(".") == n - 1 and not name.endswith(".help")]
            close = difflib.get_close_matches(".".join(parts[:n]), among, n=1, cutoff=0.7)
            dashes = "--" if wrong.startswith("-") else ""
            return dashes + ".".join([*close, *parts[n:]]) if close else None
    return None


def _option(key: str) -> str:
    """The option of a key, which may lack what comes before the settings of an algorithm or of a part of it.

    >>> _option("kernel"), _option("schedule.end"), _option("trainer.max_steps")
    ('--sparse.algorithm.distribution.kernel', '--sparse.algorithm.schedule.end', '--trainer.max_steps')
    """
    first = key.split(".")[0]
    for part, base in _CLASSES.items():
        if first != "algorithm" and any(first in getattr(c, "__dataclass_fields__", ()) for c in _subclasses(base)):
            return f"--sparse.algorithm.{'' if part == 'algorithm' else f'{part}.'}{key}"
    return f"--{key}"


def _setting_names() -> list[str]:
    classes = [c for base in _CLASSES.values() for c in _subclasses(base)]
    return sorted({name for c in classes for name in getattr(c, "__dataclass_fields__", ())})


def _subclasses(base: type) -> set[type]:
    direct: list[type] = base.__subclasses__()
    return {*direct, *(c for child in direct for c in _subclasses(child))}


def _with_suggestion(line: str, wrong: str, known: Iterable[str]) -> str:
    names = [name for name in known if name != wrong]
    same = [name for name in names if name.lower() == wrong.lower()]
    close = same or difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    return f"{line}. Did you mean {close[0]!r}?" if close else f"{line}."
