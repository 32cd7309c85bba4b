"""What went wrong in a command that began, in one line; None where the traceback is worth more."""

from __future__ import annotations

import inspect
import pickle
import re
import traceback
from types import FrameType

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import AcceleratorRegistry

from rigl_lightning.base.errors import SettingError, SparseTrainingError
from rigl_lightning.base.files import NO_ROOM, full_disk

LARGEST_SEED = 2**32 - 1
_MISFITS = {
    r"Target (\d+) is out of bounds": "Expected labels below the number of classes, got {0}. Set --model.init_args."
    "num_classes (or what your module calls it), or other --data.",
    r"mat1 and mat2 shapes cannot be multiplied \((\w+) and (\w+)\)": "Expected data of the size that the network "
    "takes, got a batch {0} for a weight {1}. Set --data, or the sizes in --model.init_args.",
    r"Given .*weight of size (\[.*?\]), expected input(\[.*?\]) to have (\d+) channels, but got (\d+)": "Expected data "
    "of {2} channels for a weight {0}, got {3} in a batch {1}. Set --data, or the sizes in --model.init_args.",
    r"^index out of range in self": "Expected tokens below the size of the embedding, got larger ones. Set --data, or "
    "the number of tokens in --model.init_args.",
    r"^Invalid ([\w ]+?)(?: value)?: (\S+)$": "Expected settings that the optimizer takes, got {0} {1}. Set --model."
    "init_args.",
    r"shape '(\[.*?\])' is invalid for input of size (\d+)": "Expected data of the shape that the network takes: {1} "
    "numbers are no {0}. Set --data, or the sizes in --model.init_args.",
}
"""What torch says of data that do not fit a network, and what a user can do about it."""


def explain_run_error(error: Exception) -> str | None:
    """One line for an error that a setting caused, or None for one that deserves its traceback.

    Errors of settings, here and in Lightning, say what was expected, or that something is not where it was named.
    """
    message = str(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        told = str(error.strerror)
        return told if told.startswith("Expected room") else full_disk("the files of this run", error)
    known = _checkpoint(error, message) or _accelerator(message) or _misfit(message) or _place(message)
    known = known or _of_lightning(error)
    if known is not None:
        return known
    line = " ".join(message.split())
    if isinstance(error, FileNotFoundError | MisconfigurationException | SparseTrainingError):
        return line
    # An error of ours says what to do. (torch, too, begins messages with "Expected", about the user's own code.)
    # jsonargparse adds, before or after, what else an optional setting could have been, and then all of the settings.
    line = line.replace("Expected a <class 'NoneType'> - ", "").split(" Given value type:")[0]
    ours = re.search(r"Expected .*\b(Set|Correct|Add|Use|Lower|Run|Start|Give|Remove|Was)\b.*", line)
    if ours:
        return ours[0].split(" - Expected a <class 'NoneType'>")[0]
    return _failed_class(message) or broken_file(error)


def check_seed(seed: object) -> None:
    """Refuse a seed that numpy does not take.

    Raises:
        ValueError: If it is a number outside [0, 2³² - 1].
    """
    if isinstance(seed, int) and not 0 <= seed <= LARGEST_SEED:
        raise SettingError(f"Expected a seed in [0, {LARGEST_SEED}], got {seed}. Set --seed_everything.")


def refused_by_trainer(error: Exception) -> ValueError:
    """What Lightning's Trainer refuses when it is made, as an error of a setting.

    >>> str(refused_by_trainer(TypeError("`devices` should be an int > 0.")))
    'Expected other settings of the Trainer: `devices` should be an int > 0. Set --trainer.devices.'
    """
    line = " ".join(str(error).split()).split(" Find a complete list")[0].rstrip(". ,")
    setting = f"Set --trainer.{_of_trainer(line) or '*'}."
    doubled = re.search(r"more than one stateful callback of type `(\w+)`", line)
    if doubled:
        line, setting = f"two callbacks {doubled[1]} whose state has one name", "Remove one of --trainer.callbacks."
    return SettingError(_accelerator(str(error)) or f"Expected other settings of the Trainer: {line}. {setting}")


def _of_trainer(message: str) -> str | None:
    """The first argument of the Trainer that a message names.

    >>> _of_trainer("The strategy `fsdp` requires a GPU accelerator"), _of_trainer("a stateful callback")
    ('strategy', 'callbacks')
    """
    known = inspect.signature(pl.Trainer).parameters
    words = re.findall(r"\w+", message)
    return next((name for word in words for name in (word, f"{word}s") if name in known), None)


def _checkpoint(error: Exception, message: str) -> str | None:
    if message.startswith("Error(s) in loading state_dict"):
        first = message.splitlines()[1].strip() if "\n" in message else message
        return (
            "Expected a checkpoint of this model, but its weights do not fit: "
            f"{first.rstrip('. ')}. Set --ckpt_path, or the model as in the run of the checkpoint."
        )
    if isinstance(error, pickle.UnpicklingError | IsADirectoryError) or "PytorchStreamReader" in message:
        return "Expected a readable checkpoint, but the file is damaged or none. Set --ckpt_path."
    return f"{message}. Set --ckpt_path." if message.startswith("Checkpoint file not found") else None


def _of_lightning(error: Exception) -> str | None:
    """What Lightning says of an argument of the Trainer when the training begins."""
    frames = traceback.extract_tb(error.__traceback__)
    line = " ".join(str(error).split()).rstrip(".")
    quoted = re.match(r"`(\w+)`", line)
    inside = bool(frames) and "lightning" in frames[-1].filename.replace("rigl_lightning", "")
    if not (isinstance(error, ValueError) and inside and quoted and _of_trainer(quoted[1]) == quoted[1]):
        return None
    return f"Expected other settings of the Trainer: {line}. Set --trainer.{quoted[1]}."


def _failed_class(message: str) -> str | None:
    """What a user's class says when it is made, without what jsonargparse says around it."""
    found = re.search(r"Union subtypes\n.*?Errors:(.*)Given value type:.*class_path='([\w.]+)'", message, re.DOTALL)
    reasons = [" ".join(part.split()) for part in re.split(r"\n\s*- ", found[1])] if found else []
    reason = next((part for part in reasons if part and not part.startswith("Expected a ")), None)
    if found is None or reason is None:
        return None
    return f"Expected {found[2]} to accept its settings, but it fails: {reason}. Correct the class or its settings."


def broken_file(error: BaseException | None) -> str | None:
    """A Python file that fails while it is imported, such as a user's own scores: where, and what it says.

    One that is not there, or needs what is not installed, is told of elsewhere.
    """
    if error is None or isinstance(error, ImportError):
        return None
    if isinstance(error, SyntaxError) and error.filename:
        return f"Expected Python in {error.filename}, line {error.lineno}: {error.msg}. Correct the file."
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_import(frame)]
    if not frames:
        return broken_file(error.__cause__)
    (frame, line), why = frames[-1], " ".join(f"{type(error).__name__}: {error}".split())
    return f"Expected {frame.f_code.co_filename} to be importable, line {line} raises {why}. Correct the file."


def _is_import(frame: FrameType) -> bool:
    return frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__"


def _accelerator(message: str) -> str | None:
    """An accelerator that is unknown, or not in this machine."""
    if not re.search(
        r"No supported gpu backend|accelerator is not available|invalid accelerator name|torch_xla", message
    ):
        return None
    here = [name for name in AcceleratorRegistry if AcceleratorRegistry[name]["accelerator"].is_available()]
    wrong = re.search(r"accelerator='(\w+)'|`(\w+)Accelerator`", message)
    asked = next(filter(None, wrong.groups())) if wrong else "tpu" if "torch_xla" in message else "gpu"
    known = ", ".join([*here, "auto"])
    return f"Expected an accelerator of this machine ({known}), got {asked}. Set --trainer.accelerator."


def _misfit(message: str) -> str | None:
    """Data that do not fit the network."""
    for pattern, told in _MISFITS.items():
        found = re.search(pattern, message)
        if found:
            return told.format(*found.groups())
    return None


def _place(message: str) -> str | None:
    """An address that fsspec does not know, or whose package is missing."""
    unknown = re.search(r"Protocol not known: ([\w+-]+)", message)
    missing = re.search(r"(?:Please )?[Ii]nstall [\w.`-]+ to (?:access|use) .*", message)
    if unknown is None and missing is None:
        return None
    got = f"got {unknown[1]}://" if unknown else f"got one that needs a package ({missing[0] if missing else ''})"
    return f"Expected a place on this machine, or an address that fsspec knows, {got}. Set the address."
