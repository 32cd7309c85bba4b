"""Sparse-from-scratch training for PyTorch Lightning, after "Rigging the Lottery: Making All Tickets Winners"."""

from typing import TYPE_CHECKING, Any

from rigl_lightning import sparsity
from rigl_lightning.sparsity import *  # noqa: F403  (its __all__ is the public core)

if TYPE_CHECKING:
    from rigl_lightning.trainer.callback import SparseTrainingCallback as SparseTrainingCallback
    from rigl_lightning.trainer.checkpoint_io import AtomicCheckpointIO as AtomicCheckpointIO
    from rigl_lightning.trainer.sparsity_plot import SparsityPlot as SparsityPlot

__version__ = "0.1.0"

__all__ = ["AtomicCheckpointIO", "SparseTrainingCallback", "SparsityPlot", *sparsity.__all__]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import; who uses the Sparsifier in a loop of his own does not need it.
    if name == "SparseTrainingCallback":
        from rigl_lightning.trainer.callback import SparseTrainingCallback

        return SparseTrainingCallback
    if name == "AtomicCheckpointIO":
        from rigl_lightning.trainer.checkpoint_io import AtomicCheckpointIO

        return AtomicCheckpointIO
    if name == "SparsityPlot":
        from rigl_lightning.trainer.sparsity_plot import SparsityPlot

        return SparsityPlot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
