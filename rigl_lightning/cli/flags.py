"""Python's names of settings in a message, as options of the command line.

Errors of the package name an argument and its class, which is what whoever calls it from Python can set.
"""

from __future__ import annotations

import re

import pytorch_lightning as pl

from rigl_lightning import models
from rigl_lightning.base.classes import subclasses
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.distributions import Distribution
from rigl_lightning.sparsity.ramps import SparsityRamp
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.structures import Structure
from rigl_lightning.trainer.callback import SparseTrainingCallback

PLACES = {
    "the Trainer": "trainer",
    "the module": "model.init_args",
    "the data module": "data.init_args",
    "the algorithm": "sparse.algorithm",
    "the distribution": "sparse.algorithm.distribution",
}
"""Groups of options by what messages call their owner."""
_CLASSES: dict[type, str] = {
    pl.LightningModule: "model.init_args",
    pl.LightningDataModule: "data.init_args",
    SparseTrainingCallback: "sparse",
    ByDensity: "sparse.by_density",
    SparseAlgorithm: "sparse.algorithm",
    Distribution: "sparse.algorithm.distribution",
    Structure: "sparse.algorithm.structure",
    SparsityRamp: "sparse.algorithm.sparsity",
    UpdateSchedule: "sparse.algorithm.schedule",
    InversePower: "sparse.algorithm.decay",
}
_YAML = {"None": "null", "True": "true", "False": "false"}
_CONSTANTS = re.compile(r"(?<=to )(?:None|True|False)\b|(?<=\()None(?=: )")
_NAME = r"`[\w.]+`"
_LISTS = re.compile(r"\b(Set|[Ss]horten|Correct|to|out of) `(include|exclude)`")
"""What a message tells to change of the two settings that no other class has."""
_SETTINGS = re.compile(
    rf"({_NAME}(?:(?:,| and| or|, and|, or)* {_NAME})*) of (the (?:data )?\w+|\w+)(?: or (?:Sparsifier|SparseCompute))?"
)


def with_flags(message: str) -> str:
    """The message with options for settings of known classes; all else stays.

    >>> from rigl_lightning.data import DigitsDataModule
    >>> with_flags("Expected `batch_size` of at least 1, got 0. Set `batch_size` of DigitsDataModule.")
    'Expected `batch_size` of at least 1, got 0. Set --data.init_args.batch_size.'
    >>> with_flags("Set `n` and `m` of NM, or `exclude` of SparseTrainingCallback. Set `ckpt_path`.")
    'Set --sparse.algorithm.structure.n and --sparse.algorithm.structure.m, or --sparse.exclude. Set --ckpt_path.'
    >>> with_flags("Set `include` or shorten `exclude`.")
    'Set --sparse.include or shorten --sparse.exclude.'
    >>> with_flags("Set `schedule.end` of GradualMagnitudePruning, or `strategy` of the Trainer to None.")
    'Set --sparse.algorithm.ramp.end, or --trainer.strategy to null.'
    """

    def translated(found: re.Match[str]) -> str:
        names, owner = found.groups()
        place, words = _place(owner)
        if place is None:
            return found[0]
        return re.sub(r"`(\w+)([\w.]*)`", lambda name: f"--{place}.{words.get(name[1], name[1])}{name[2]}", names)

    line = _LISTS.sub(r"\1 --sparse.\2", _SETTINGS.sub(translated, message)).replace("`ckpt_path`", "--ckpt_path")
    return line if line == message else _CONSTANTS.sub(lambda found: _YAML[found[0]], line)


def _place(owner: str) -> tuple[str | None, dict[str, str]]:
    """Group of options of a class, and its settings that have another name there."""
    if owner in PLACES:
        return PLACES[owner], {}
    if owner in models.__all__:
        return "model.init_args.model.init_args", {}
    for base, place in _CLASSES.items():
        for kind in {base, *subclasses(base)}:
            if kind.__name__ == owner:
                return place, getattr(kind, "outside_words", {})
    return None, {}
