"""Several processes: their masks have to be the same, and nothing else would notice if they were not."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from rigl_lightning.sparsity.sparsifier import Sparsifier


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
        raise RuntimeError(
            f"The masks of layer {layer!r} differ between processes after the update at step {sparsifier.step}. "
            "Scores must be the same on every process: use no random numbers but `connections.generator`, and no "
            "communication hook that leaves gradients different between ranks."
        )
