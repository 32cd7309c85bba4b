"""Flavours: `pytorch_lightning` and `lightning` have the same classes; this package works with both."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core import rank_zero


def callback_flavours() -> tuple[type, ...]:
    """Callback classes of every installed flavour of Lightning, so that any Trainer takes its subclasses."""
    other = load_other_flavour()
    return (pl.Callback,) if other is None else (pl.Callback, other.Callback)


def load_other_flavour() -> Any:
    """The module ``lightning.pytorch``, or None if it is not installed."""
    if importlib.util.find_spec("lightning") is None:
        return None
    log = rank_zero.log
    import lightning.pytorch  # type: ignore[import-not-found,unused-ignore]

    rank_zero.log = log  # the second flavour takes over the messages of the first; give them back
    return lightning.pytorch


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """All callbacks of a Trainer; Lightning sets the attribute where type checkers do not see it."""
    return trainer.callbacks  # type: ignore[attr-defined]


def callbacks_named(trainer: pl.Trainer, *names: str) -> list[Any]:
    """The callbacks of these classes and of subclasses; by name, since each flavour of Lightning has its own."""
    return [c for c in callbacks_of(trainer) if {kind.__name__ for kind in type(c).__mro__} & {*names}]
