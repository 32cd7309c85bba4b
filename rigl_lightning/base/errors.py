"""Errors and warnings of our own, so that users can tell them from those of torch, Lightning and their own code.

Each is also the built-in error that it would be elsewhere: ``except ValueError`` catches a `SettingError`.

>>> import warnings
>>> warnings.filterwarnings("ignore", category=SparseTrainingWarning)  # silences this package, and nothing else
"""

from __future__ import annotations


class SparseTrainingError(Exception):
    """What all errors are that this package raises by itself, but for those of `rigl_lightning.kernels`."""


class SettingError(SparseTrainingError, ValueError):
    """A setting, an argument or a file is not what was expected; the message says what to set."""


class SettingTypeError(SparseTrainingError, TypeError):
    """An argument is missing, unknown or given twice."""


class StateError(SparseTrainingError, RuntimeError):
    """Something is asked for at the wrong time, or what must always hold does not."""


class MissingFileError(SparseTrainingError, FileNotFoundError):
    """A file or folder that a setting names is not there."""


class MissingPackageError(SparseTrainingError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class FullDiskError(SparseTrainingError, OSError):
    """There is no room for a file; what was there before is kept."""


class SparseTrainingWarning(UserWarning):
    """What all warnings are that this package gives by itself."""
