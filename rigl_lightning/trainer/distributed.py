"""Several processes: their masks have to be the same, and nothing else would notice if they were not."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from rigl_lightning.base.errors import SettingError, StateError
from rigl_lightning.sparsity.algorithms import describe
from rigl_lightning.sparsity.sparsifier import Sparsifier

_REMEDIES = {
    "callback": "Give all processes the same callbacks, in the same order.",
    "algorithm": "Give all processes the same settings.",
    "number of training steps": "Give all processes as many batches, or set `max_steps`.",
    "step": "Resume all processes from the same checkpoint.",
    "sparse layers": "Give all processes the same network, `include` and `exclude`.",
    "seed": "Call seed_everything with the same number on all of them, or set `seed` of SparseTrainingCallback.",
    "masks": "Read them from the same file on all processes, and compute them from equal weights.",
}


def compare_ranks(trainer: pl.Trainer, sparsifier: Sparsifier) -> None:
    """Stop if the masks of any two processes differ; nothing else would notice.

    Raises:
        RuntimeError: Naming the first layer that differs.
    """
    if trainer.world_size == 1:
        return
    checksums = sparsifier.checksums()
    mine = torch.tensor(list(checksums.values()), device=trainer.strategy.root_device)
    everyone = [torch.empty_like(mine) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(everyone, mine)
    different = torch.stack([theirs != mine for theirs in everyone]).any(dim=0)
    if different.any():
        layer = list(checksums)[int(different.nonzero()[0])]
        raise StateError(
            f"The masks of layer {layer!r} differ between processes after {sparsifier.step} steps. "
            "Scores must be the same on every process: use no random numbers but `connections.generator`, and no "
            "communication hook that leaves gradients different between ranks."
        )


def compare_starts(trainer: pl.Trainer, sparsifier: Sparsifier, key: str) -> None:
    """Stop if the processes do not begin with the same sparse training; else one would wait for another for ever.

    Raises:
        ValueError: Naming the first setting that differs, and its values.
    """
    if trainer.world_size == 1:
        return
    mine = {
        "callback": key,
        "algorithm": describe(sparsifier.algorithm),
        "seed": sparsifier.seed,
        "number of training steps": sparsifier.total_steps,
        "step": sparsifier.step,
        "sparse layers": ", ".join(sparsifier.masks),
        "masks": sparsifier.checksums(),
    }
    everyone = [mine] * trainer.world_size
    torch.distributed.all_gather_object(everyone, mine)
    for what, remedy in _REMEDIES.items():
        for rank, theirs in enumerate(everyone):
            if theirs[what] != everyone[0][what]:
                raise SettingError(
                    f"Expected the same {what} on every process, got {everyone[0][what]} on process 0 and "
                    f"{theirs[what]} on process {rank}: their masks would differ. {remedy}"
                )
