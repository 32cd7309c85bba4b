"""Sparse-from-scratch training for PyTorch Lightning, after "Rigging the Lottery: Making All Tickets Winners".

To read the algorithm, begin with the list in ``sparsity/__init__.py``: where connections are dropped and grown, masks
applied, FLOPs counted, runs resumed. The folders from the bottom up; a folder imports only from those above it in
this list (`tests/test_layers.py`):

- ``base/``      errors, and files that are written completely or not at all
- ``kernels/``   products with sparse weights: the active connections only
- ``sparsity/``  the algorithms and the `Sparsifier`, plain PyTorch: masks, scores, distributions, schedules, costs
- ``compute/``   how the sparse layers of a module are computed and stored while it trains
- ``export/``    networks for deployment
- ``reports/``   tables and numbers of a sparse network
- ``trainer/``   all that needs a Trainer: `SparseTrainingCallback`, its checks, counts and logs
- ``huggingface/``  `SparseTrainerCallback` for the Trainer of transformers
- ``cli/``       ``rigl-lightning fit|validate|test|predict|inspect|export|configs``
- ``modules/``, ``models/``, ``data/``  the benchmarks, which do not depend on sparsity
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rigl_lightning import sparsity
    from rigl_lightning.base.errors import SparseTrainingError as SparseTrainingError
    from rigl_lightning.base.errors import SparseTrainingWarning as SparseTrainingWarning
    from rigl_lightning.reports.summary import summary as summary
    from rigl_lightning.sparsity import *  # noqa: F403  (its __all__ is the public core)
    from rigl_lightning.trainer.callback import SparseTrainingCallback as SparseTrainingCallback
    from rigl_lightning.trainer.checkpoint_io import AtomicCheckpointIO as AtomicCheckpointIO
    from rigl_lightning.trainer.sparsity_plot import SparsityPlot as SparsityPlot

    __all__ = [
        "AtomicCheckpointIO",
        "SparseTrainingCallback",
        "SparseTrainingError",
        "SparseTrainingWarning",
        "SparsityPlot",
        "summary",
        *sparsity.__all__,
    ]

__version__ = "0.1.0"

_HOMES = {
    "AtomicCheckpointIO": "rigl_lightning.trainer.checkpoint_io",
    "SparseTrainingCallback": "rigl_lightning.trainer.callback",
    "SparseTrainingError": "rigl_lightning.base.errors",
    "SparseTrainingWarning": "rigl_lightning.base.errors",
    "SparsityPlot": "rigl_lightning.trainer.sparsity_plot",
    "summary": "rigl_lightning.reports.summary",
}


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and torch takes one: neither before something of it is asked for.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    core = import_module("rigl_lightning.sparsity")
    if name == "__all__":
        return [*_HOMES, *core.__all__]
    if name == "sparsity":
        return core
    if name in core.__all__:
        return getattr(core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
