"""Batch-norm statistics of weights that were never trained on: averages, interpolations, pruned networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def first_of(batch: Any) -> Any:
    """The inputs of a batch ``(inputs, targets, ...)``; a batch that is neither tuple nor list is all input."""
    return batch[0] if isinstance(batch, tuple | list) else batch


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    max_batches: int | None = None,
    inputs_of: Callable[[Any], Any] = first_of,
) -> None:
    """Replace the running statistics of all batch norms by their means over some batches, each weighing the same.

    The running statistics of a training belong to the weights it had. Others need their own: in an average of weights
    (EMA) or between two solutions accuracy is otherwise at chance.

    Weights, masks, modes, momenta and torch's random state stay as they are. Everything but the batch norms runs in
    evaluation mode, so the statistics are those of the network as it will be used, without dropout, which
    `torch.optim.swa_utils.update_bn` keeps. Under DDP every process sees its own batches unless the layers are
    SyncBatchNorm.

    Args:
        model: Any module; called as ``model(inputs)``. Batch norms that keep no running statistics are left alone.
        batches: A data loader of training data.
        max_batches: How many of them to use at most, at least 1; None for all.
        inputs_of: Model input from a batch, on any device. For a DataModule that prepares batches on the device:
            ``lambda batch: data.on_after_batch_transfer(batch, 0)[0]``.

    Raises:
        ValueError: If ``model`` has batch norms, but there is no batch. After this and any other error the statistics
            are those of before.

    >>> model = nn.BatchNorm1d(1).eval()
    >>> reestimate_batch_norm(model, [Tensor([[0.0], [2.0]]), Tensor([[4.0], [6.0]])])
    >>> model.running_mean, model.running_var, model.training  # means of 1 and 5, of 2 and 2
    (tensor([3.]), tensor([2.]), False)
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    device = next(model.parameters(), torch.empty(0)).device
    n_batches = 0
    with _estimating(model, norms), torch.random.fork_rng(devices=[]):  # a data loader draws its seed
        for n_batches, batch in enumerate(islice(batches, max_batches), start=1):  # noqa: B007  (counted)
            inputs = inputs_of(batch)
            model(inputs.to(device) if isinstance(inputs, Tensor) else inputs)
        if n_batches == 0:
            raise ValueError(
                "Expected at least one batch to estimate batch-norm statistics on, got none. Check `batches`."
            )


@contextmanager
def _estimating(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms in training mode, averaging from nothing with equal weights; all else in evaluation mode.

    What they knew before comes back after an error.
    """
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    known = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the cumulative mean
        norm.train()
    try:
        yield
    except BaseException:
        for norm, buffers in zip(norms, known, strict=True):
            for name, buffer in norm.named_buffers(recurse=False):
                buffer.copy_(buffers[name])
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
