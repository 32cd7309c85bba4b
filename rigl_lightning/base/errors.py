"""Errors and warnings of this package, so that users can distinguish them from those of torch, Lightning and others.

Each error is also a built-in one: ``except ValueError`` catches a `SettingError`.

>>> import warnings
>>> warnings.filterwarnings("ignore", category=SparseTrainingWarning)  # silences this package, and nothing else
"""

from __future__ import annotations


class SparseTrainingError(Exception):
    """Base of all errors that this package raises, except for those of `rigl_lightning.kernels`."""


class SettingError(SparseTrainingError, ValueError):
    """A setting, an argument or a file is not what was expected; the message says what to set."""


class SettingTypeError(SparseTrainingError, TypeError):
    """An argument is missing, unknown or given twice."""


class StateError(SparseTrainingError, RuntimeError):
    """A call at the wrong time, or an invariant that does not hold."""


class MissingFileError(SparseTrainingError, FileNotFoundError):
    """A file or folder that a setting names does not exist."""


class MissingPackageError(SparseTrainingError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class FullDiskError(SparseTrainingError, OSError):
    """There is no space for a file; an earlier file of the name is kept."""


class SparseTrainingWarning(UserWarning):
    """Class of all warnings of this package."""
