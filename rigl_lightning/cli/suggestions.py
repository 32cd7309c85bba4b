"""What a user probably meant: the closest known name of an option, a setting, a class or a function."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable

from rigl_lightning.base.classes import subclasses
from rigl_lightning.cli.help import is_base
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.distributions import Distribution
from rigl_lightning.sparsity.structures import Structure

GROUPS: dict[str, type] = {"algorithm": SparseAlgorithm, "distribution": Distribution, "structure": Structure}
"""Settings whose value is one of our classes."""
# Names of papers that are settings here.
ALIASES = {
    "ERK": ". ERK is ErdosRenyi",
    "ER": ". ER is ErdosRenyi with --sparse.algorithm.distribution.kernel false",
    "SRIGL": ". SRigL is RigL with --sparse.algorithm.structure ConstantFanIn",
    "ITOP": ". ITOP is RigLITOP or SETITOP",
}
OTHER_PROGRAMS = {
    "lr": "model.learning_rate",
    "wd": "model.weight_decay",
    "epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "gpus": "trainer.devices",
    "resume": "ckpt_path",
    "checkpoint": "ckpt_path",
    "delta_t": "sparse.algorithm.schedule.interval",
    "alpha": "sparse.algorithm.drop_fraction",
}
"""Options by the names that other programs and the paper have for them."""


def nearest_path(wrong: str, options: Iterable[str]) -> str | None:
    """A dotted option, or key of a YAML file, with the first part that is misspelt replaced by the nearest known one.

    >>> nearest_path("--modle.learning_rate", ["--model", "--data", "--trainer.max_steps"])
    '--model.learning_rate'
    >>> nearest_path("trainer.max_step", ["--model", "--data", "--trainer.max_steps"])
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


def choices(base: type) -> list[str]:
    """Names of the classes that a user chooses from."""
    return sorted(kind.__name__ for kind in subclasses(base) if not is_base(kind))


def functions_beside(function: object) -> list[str]:
    """Names of the public functions and classes of the module that a function is in."""
    path = getattr(function, "__module__", "") if callable(function) else ""
    names = vars(sys.modules[path]) if path in sys.modules else {}
    return [name for name in names if not name.startswith("_") and dotted_path(name) == f"{path}.{name}"]


def dotted_path(name: str) -> str | None:
    """Where a function or class of this package is, by its name.

    >>> dotted_path("cosine")
    'rigl_lightning.sparsity.schedules.cosine'
    """
    for path in sorted(sys.modules):
        found = vars(sys.modules[path]).get(name) if path.startswith("rigl_lightning.") else None
        if (inspect.isfunction(found) or inspect.isclass(found)) and found.__module__ == path:
            return f"{path}.{name}"
    return None
