"""What went wrong on the command line, in one line that names the setting."""

from __future__ import annotations

import difflib
import inspect
import pickle
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from lightning_fabric.utilities.exceptions import MisconfigurationException

from rigl_lightning.base.files import NO_ROOM, full_disk
from rigl_lightning.cli.configs import config_files
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.distributions import Distribution
from rigl_lightning.sparsity.structures import Structure

_CLASSES = {"algorithm": SparseAlgorithm, "distribution": Distribution, "structure": Structure}
# Names of papers that are settings here.
_ALIASES = {
    "ERK": ". ERK is ErdosRenyi",
    "ER": ". ER is ErdosRenyi with --sparse.algorithm.distribution.kernel false",
    "SRigL": ". SRigL is RigL with --sparse.algorithm.structure ConstantFanIn",
    "ITOP": ". ITOP is RigLITOP or SETITOP",
}


def explain_parse_error(message: str, options: Iterable[str] = ()) -> str:
    """A parser's message as one line, with the closest known name where a name is wrong.

    Args:
        message: What jsonargparse says, often over many lines.
        options: All options of the command, such as ``--sparse.algorithm``.

    >>> explain_parse_error("unrecognized arguments: --sparse.algoritm RigL", ["--sparse.algorithm"])
    "unrecognized arguments: --sparse.algoritm RigL. Did you mean '--sparse.algorithm'?"
    """
    for key, base in _CLASSES.items():
        unknown = re.search(rf'key "(?:[\w.]*\.)?{key}":.*dot import path string: (\S+)', message, re.DOTALL)
        if unknown:
            names = sorted(c.__name__ for c in _subclasses(base) if not inspect.isabstract(c))
            return _with_suggestion(
                f"Expected --sparse.algorithm{'' if key == 'algorithm' else '.' + key} to be one of "
                f"{', '.join(names)}, or the dotted path of a class, got {unknown[1]!r}"
                f"{_ALIASES.get(unknown[1], '')}",
                unknown[1],
                names,
            )
    line = " ".join(message.split())
    absent = re.search(r"""key "config": File does not exist: '([^']+)'""", line)
    if absent:
        names = sorted(config_files())
        return _with_suggestion(
            f"Expected a configuration file, found none at {absent[1]}. Set --config to a file, or to one that comes "
            f"along: {', '.join(names)}",
            Path(absent[1]).stem,
            names,
        )
    option = re.search(
        r"[Oo]ption '([\w.-]+)' is not accepted|does not accept option '([\w.-]+)'"
        r"|[Uu]nrecognized arguments: (--[\w.-]+)",
        line,
    )
    bare = re.fullmatch(r"[Uu]nrecognized arguments: ([\w./]+)", line)
    if bare:
        return f"Expected options, got {bare[1]!r}. Did you mean '--config {bare[1]}'?"
    if option:
        wrong = next(filter(None, option.groups()))
        longer = [name for name in (*options, _option(wrong.lstrip("-"))) if name.endswith(f".{wrong.lstrip('-')}")]
        if longer:
            return f"{line.rstrip('.')}. Did you mean {longer[0]!r}?"
        known = [*options, *([] if wrong.startswith("--") else _setting_names())]
        return _with_suggestion(line.rstrip("."), wrong, known)
    return _unknown_command(line) or _unknown_class(line) or _missing_settings(line) or _wrong_form(line) or line


def explain_run_error(error: Exception) -> str | None:
    """One line for an error that a setting caused, or None for one that deserves its traceback.

    Errors of settings, here and in Lightning, say what was expected, or that something is not where it was named.
    """
    message = str(error)
    if message.startswith("Error(s) in loading state_dict"):
        first = message.splitlines()[1].strip() if "\n" in message else message
        return (
            "Expected a checkpoint of this model, but its weights do not fit: "
            f"{first.rstrip('. ')}. Set --ckpt_path, or the model as in the run of the checkpoint."
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        told = str(error.strerror)
        return told if told.startswith("Expected room") else full_disk("the files of this run", error)
    if isinstance(error, pickle.UnpicklingError | IsADirectoryError) or "PytorchStreamReader" in message:
        return "Expected a readable checkpoint, but the file is damaged or none. Set --ckpt_path."
    if message.startswith("Checkpoint file not found"):
        return f"{message}. Set --ckpt_path."
    line = " ".join(message.split())
    if isinstance(error, FileNotFoundError | MisconfigurationException):
        return line
    # An error of ours says what to do. (torch, too, begins messages with "Expected", about the user's own code.)
    # jsonargparse adds, before or after, what else an optional setting could have been, and then all of the settings.
    line = line.replace("Expected a <class 'NoneType'> - ", "").split(" Given value type:")[0]
    ours = re.search(r"Expected .*\b(Set|Correct|Add|Use|Lower|Run|Start|Give|Remove|Was)\b.*", line)
    return ours[0].split(" - Expected a <class 'NoneType'>")[0] if ours else None


def _unknown_command(line: str) -> str | None:
    """No subcommand, or one that does not exist.

    >>> _unknown_command("argument subcommand: invalid choice: 'fti' (choose from 'fit', 'test')")
    "Expected a command of configs, fit, test, got 'fti'. Did you mean 'fit'?"
    """
    wrong = re.search(r"subcommand: invalid choice: '([^']*)' \(choose from (.*)\)", line)
    if wrong:
        names = ["configs", *wrong[2].replace("'", "").split(", ")]
        return _with_suggestion(f"Expected a command of {', '.join(names)}, got {wrong[1]!r}", wrong[1], names)
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
    options = ", ".join(_option(name.split(".", 1)[-1]) for name in names)
    start = " Start from a configuration: --config NAME; `rigl-lightning configs` lists them."
    return f"Expected also {options}.{start if '.' in names[0] else ''}"


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
    literal = re.search(r'key "([\w.]+)": Expected a typing.Literal\[(.*?)\]. Got value: (\S+)', line)
    if literal:
        return f"Expected {_option(literal[1])} to be one of {literal[2]}, got {literal[3]!r}."
    schedule = re.search(
        r"""key "(?:[\w.]+\.)?(schedule|ramp|renewal|rewiring)": Unable to load config '([^']*)'""", line
    )
    if schedule:
        option = _option(schedule[1])
        return f"Expected {option} to have settings of its own, got {schedule[2]!r}. Set its .interval, .begin or .end."
    return None


def _option(key: str) -> str:
    """The option of a key; a setting of an algorithm is known by its last name."""
    return f"--sparse.algorithm.{key}" if key in _setting_names() and key != "algorithm" else f"--{key}"


def _setting_names() -> list[str]:
    classes = [c for base in _CLASSES.values() for c in _subclasses(base)]
    return sorted({name for c in classes for name in getattr(c, "__dataclass_fields__", ())})


def _subclasses(base: type) -> set[type]:
    direct: list[type] = base.__subclasses__()
    return {*direct, *(c for child in direct for c in _subclasses(child))}


def _with_suggestion(line: str, wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, [name for name in known if name != wrong], n=1, cutoff=0.5)
    return f"{line}. Did you mean {close[0]!r}?" if close else f"{line}."
