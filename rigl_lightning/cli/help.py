"""What ``--help`` says: the settings of this package first, the usual ones of Lightning after them, in few lines."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

HELP = """usage: rigl-lightning COMMAND [--config NAME_OR_FILE] [--SETTING VALUE ...]

Train any LightningModule sparse.

look first:
  configs [NAME]    list the configurations of the package, or print one
  inspect           the sparsity of each layer and the cost of the training; trains nothing
train:
  fit               train; with `--ckpt_path last` the same command resumes where it stopped
use a trained network, from --ckpt_path FILE, or last for the newest run with the same settings:
  test, validate    accuracy, density, FLOPs and bytes of the network
  predict           outputs for the data that the DataModule predicts; --output FILE keeps them
  export            a small file of the network, and its speed with active connections only

settings (the same names in a YAML file and on the command line):
  --sparse.*                 algorithm, include, exclude, compute, ...
  --model.*, --data.*        a class and its arguments; your own by dotted path: --model mine.MyModule
  --trainer.*                Lightning's Trainer
  --seed_everything, --training_multiplier, --threads

`rigl-lightning COMMAND --help` explains them; `rigl-lightning fit --config NAME --print_config` shows all.

  -h, --help        this page
  --version         the version

There is no shell completion: a command takes seconds to find out what it accepts."""

HELP_OF_CONFIGS = """usage: rigl-lightning configs [NAME]

List the configurations of the package, or print one; `rigl-lightning configs NAME > mine.yaml` copies it.
A configuration is code: each class_path in it is imported and called."""

DESCRIPTIONS = {
    "fit": "Train, or resume a training.",
    "validate": "Accuracy, density, FLOPs and bytes of a checkpoint's network, with the validation data.",
    "test": "Accuracy, density, FLOPs and bytes of a checkpoint's network, with the test data.",
}
"""Of the commands that have Lightning's otherwise."""
_CHECKPOINT = "Checkpoint to use: a file, an address of fsspec, or last: the newest run with all these settings"
_CHECKPOINTS = {
    "fit": "Checkpoint to resume: a file, an address of fsspec, or last: that of the same command, if there is one.",
    "export": f"{_CHECKPOINT}.",
}
_OPTIONS = {
    "--config": "A file, or a name that `rigl-lightning configs` lists. A later one overrides an earlier one.",
    "--seed_everything": "Seed of all random numbers; true draws one.",
    "--weights_only": "False loads objects other than tensors and plain values too, which may run code; null is "
    "Lightning's choice.",
}
_TRAINER = """The usual ones; `fit --config NAME --print_config` shows all.
  --trainer.max_epochs N, --trainer.max_steps N       length of the training, in epochs or optimizer steps
  --trainer.accelerator cpu | gpu | auto              where to train
  --trainer.devices N, --trainer.strategy ddp         several processes
  --trainer.precision 32-true | bf16-mixed | 16-mixed
  --trainer.accumulate_grad_batches N                 batches of one optimizer step
  --trainer.gradient_clip_val X                       clipping, of active connections only
  --trainer.deterministic true                        equal results in every run
  --trainer.logger CLASS, --trainer.callbacks+=CLASS  loggers and callbacks, such as rigl_lightning.SparsityPlot"""
_TITLES = {"sparse": "sparse training", "model": "the network", "data": "the data"}


def options_in_words(command: str) -> dict[str, str]:
    """Help of the options that a command has of Lightning, by name."""
    return {**_OPTIONS, "--ckpt_path": _CHECKPOINTS.get(command, f"{_CHECKPOINT}, or none: untrained weights.")}


def short_groups(parser: Any) -> list[Any]:
    """Groups of options as a command's help shows them; of another parser's, all that there are.

    Args:
        parser: Of jsonargparse; that of a command has a group ``sparse``.
    """
    if "sparse" not in parser.groups:
        return list(parser._action_groups)
    ours = [_group(title, parser.groups[name]._group_actions) for name, title in _TITLES.items()]
    shown = [action for group in ours for action in group._group_actions]
    of_trainer = parser.groups["trainer"]._group_actions
    rest = [action for action in parser._actions if not any(action is other for other in (*shown, *of_trainer))]
    return [*ours, _group("this command", rest), _group("Lightning's Trainer", [], _TRAINER)]


def without_bases(text: str) -> str:
    """The help of an option, without the known classes that are there for others to derive from.

    >>> without_bases("the data (known subclasses: rigl_lightning.data.InMemoryDataModule, rigl_lightning.data.Mine)")
    'the data (known subclasses: rigl_lightning.data.Mine)'
    """
    return re.sub(r"(?<=known subclasses: )[\w.]+(?:, [\w.]+)*", lambda known: _choices(known[0]), text)


def is_base(kind: type) -> bool:
    """Whether a class is there for others to derive from, and no choice itself."""
    return inspect.isabstract(kind) or (not is_dataclass(kind) and bool(kind.__subclasses__()))


def _choices(known: str) -> str:
    return ", ".join(path for path in known.split(", ") if not _names_base(path))


def _names_base(path: str) -> bool:
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and is_base(kind)


def _group(title: str, actions: list[Any], description: str | None = None) -> Any:
    return SimpleNamespace(title=title, description=description, _group_actions=actions)
