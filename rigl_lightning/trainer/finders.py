"""Searches: Lightning's learning-rate and batch-size finders try out the sparse network, and leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.kernels.masking import zero_inactive_
from rigl_lightning.trainer.optimizers import callbacks_named

_SEARCHES = {"LearningRateFinder": "lr_find", "BatchSizeFinder": "scale_batch_size"}


class FinderWrapping:
    """Makes the finders of a Trainer search inside a context; they take all other callbacks out of the Trainer.

    Args:
        trainer: Its finders are wrapped until `undo`.
        context: Called before each search; its result is entered for the search.
    """

    def __init__(self, trainer: pl.Trainer, context: Callable[[], Any]) -> None:
        self._finders: list[tuple[Any, str]] = []
        for kind, search in _SEARCHES.items():
            for finder in callbacks_named(trainer, kind):
                setattr(finder, search, _inside(context, getattr(finder, search)))
                self._finders.append((finder, search))

    def undo(self) -> None:
        """Leave the finders as they were."""
        for finder, search in self._finders:
            vars(finder).pop(search, None)
        self._finders = []


def _inside(context: Callable[[], Any], search: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(search)
    def searching(*args: Any, **kwargs: Any) -> Any:
        with context():
            return search(*args, **kwargs)

    return searching


@contextmanager
def held_sparse(
    parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor], optimizer: Optimizer
) -> Iterator[None]:
    """Inactive weights are zero and get no gradient; the masks do not move.

    Args:
        parameters: Sparse weights by name. Their values come back in the end.
        masks: Theirs; True is active.
        optimizer: That of the weights.
    """
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def hold(*_: Any) -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                zero_inactive_(parameter, masks[name])

    def gradient_hook(mask: Tensor) -> Callable[[Tensor], None]:
        def mask_gradient(parameter: Tensor) -> None:
            if parameter.grad is not None:
                zero_inactive_(parameter.grad, mask)

        return mask_gradient

    hooks = [p.register_post_accumulate_grad_hook(gradient_hook(masks[n])) for n, p in parameters.items()]
    hooks.append(optimizer.register_step_post_hook(hold))
    hold()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
