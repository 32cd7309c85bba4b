"""Finders: Lightning's learning-rate and batch-size finders try out the sparse network, and leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.kernels.masking import zero_inactive_
from rigl_lightning.sparsity.density_scaling import DensityScaling
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.flavours import callbacks_named
from rigl_lightning.trainer.optimizers import StepHook

_SEARCHES = {"LearningRateFinder": "lr_find", "BatchSizeFinder": "scale_batch_size"}


class Finders:
    """The finders of a Trainer, which search inside a context; they take all other callbacks out of the Trainer."""

    def __init__(self) -> None:
        self._wrapped: list[tuple[Any, str]] = []

    def wrap(self, trainer: pl.Trainer, context: Callable[[], AbstractContextManager[None]]) -> None:
        """Begin.

        Args:
            trainer: Its finders are wrapped until `release`.
            context: Called before each search; its result is entered for the search.
        """
        for kind, search in _SEARCHES.items():
            for finder in callbacks_named(trainer, kind):
                setattr(finder, search, partial(_search_inside, context, getattr(finder, search)))
                self._wrapped.append((finder, search))

    def release(self) -> None:
        """Leave the finders as they were."""
        for finder, search in self._wrapped:
            vars(finder).pop(search, None)
        self._wrapped = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_wrapped": []}  # the finders of a Trainer that is elsewhere


def _search_inside(context: Callable[[], AbstractContextManager[None]], search: Any, *args: Any, **kwargs: Any) -> Any:
    with context():
        return search(*args, **kwargs)


@contextmanager
def held_sparse(
    parameters: Mapping[str, nn.Parameter],
    tried: Sparsifier,
    optimizer: Optimizer,
    hook: StepHook | None = None,
) -> Iterator[None]:
    """Inactive weights are zero and get no gradient; the masks do not move.

    Args:
        parameters: Sparse weights by name. Their values come back in the end.
        tried: What training would begin or go on with: masks, weights, and learning rates by density.
        optimizer: That of the weights.
        hook: That of the fit that is going on, whose steps these are not.
    """
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    masks, scaling = tried.masks, DensityScaling(parameters, tried.network, tried.scaling.settings)

    @torch.no_grad()
    def hold(*_: Any) -> None:
        scaling.after_step()
        for name, parameter in parameters.items():
            zero_inactive_(parameter, masks[name])

    def take(weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])

    def gradient_hook(mask: Tensor) -> Callable[[Tensor], None]:
        def mask_gradient(parameter: Tensor) -> None:
            if parameter.grad is not None:
                zero_inactive_(parameter.grad, mask)

        return mask_gradient

    handles = [p.register_post_accumulate_grad_hook(gradient_hook(masks[n])) for n, p in parameters.items()]
    handles.append(optimizer.register_step_pre_hook(lambda *_: scaling.before_step()))
    handles.append(optimizer.register_step_post_hook(hold))
    take(tried.parameters)
    hold()
    try:
        with nullcontext() if hook is None else hook.paused():
            yield
    finally:
        for handle in handles:
            handle.remove()
        take(values)
