"""Optimizers whose state no mask can follow."""

from __future__ import annotations

from torch.optim import LBFGS, Optimizer, SparseAdam

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.optimizer_state import with_wrapped

_REFUSED = {
    "ZeroRedundancyOptimizer": "keeps the state of each weight on one process only",
    "PostLocalSGDOptimizer": "lets the weights of the processes differ between two averages",
    "DistributedOptimizer": "keeps weights on other processes",
}


def refuse_optimizer(optimizer: Optimizer) -> None:
    """Refuse LBFGS, SparseAdam, and optimizers whose state has 8 or 4 bits or is shared out among processes.

    Those that an optimizer wraps are refused, too.

    Raises:
        ValueError: Naming what to use instead.
    """
    for single in with_wrapped(optimizer):
        _refuse(single)


def _refuse(optimizer: Optimizer) -> None:
    names = [kind.__name__ for kind in type(optimizer).__mro__]
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", 32)  # bitsandbytes
    if isinstance(optimizer, LBFGS):
        raise SettingError(
            "Expected a first-order optimizer, got LBFGS: it keeps directions that no mask can follow. Use another (in "
            "Lightning: return it from configure_optimizers)."
        )
    if isinstance(optimizer, SparseAdam):
        raise SettingError(
            "Expected an optimizer for dense gradients, got SparseAdam, which is for nn.Embedding(sparse=True). Use "
            "Adam for the sparse weights, and SparseAdam as a second optimizer."
        )
    for name in names:
        if name in _REFUSED:
            raise SettingError(
                f"Expected an optimizer with the state of all weights on each process, got {name}, which "
                f"{_REFUSED[name]}. Use a plain optimizer of torch.optim."
            )
    if bits < 16 or any(name.endswith(("8bit", "4bit")) for name in names):
        raise SettingError(
            f"Expected an optimizer with floating-point state, got {names[0]}, whose codes of 8 or fewer bits cannot "
            "be set to zero for single connections. Use its 32-bit form."
        )
