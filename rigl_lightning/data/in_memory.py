"""A data set held in memory as tensors, and its DataModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rigl_lightning.data.module import Batch, ResumableDataModule


class TensorBatches(Dataset[Batch]):
    """Samples stored as bytes, gathered a whole batch at a time.

    Args:
        inputs: (N, ...) stored inputs, usually uint8.
        targets: (N, ...) stored targets.
        transform: Makes a gathered batch fit for the model; None leaves it as stored.

    >>> data = TensorBatches(torch.arange(10), torch.arange(10))
    >>> data.__getitems__([7, 2])
    (tensor([7, 2]), tensor([7, 2]))
    """

    def __init__(self, inputs: Tensor, targets: Tensor, transform: Callable[[Batch], Batch] | None = None) -> None:
        self.inputs = inputs
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    def __getitem__(self, index: int) -> Batch:
        """One sample, without the batch dimension."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these samples; what torch's DataLoader calls instead of N single look-ups."""
        rows = torch.as_tensor(indices)
        if self.inputs.is_cuda:
            rows = rows.pin_memory().to(self.inputs.device, non_blocking=True)  # else the host waits for the GPU
        batch = self.inputs.index_select(0, rows), self.targets.index_select(0, rows)
        return batch if self.transform is None else self.transform(batch)


class InMemoryDataModule(ResumableDataModule):
    """A `ResumableDataModule` whose splits are `TensorBatches`; ``read_splits`` of a subclass fills them.

    On a CUDA GPU the splits lie in its memory, so that no step waits for its batch to be copied.

    Attributes:
        on_gpu: Whether that is so. Set it to False where a loader has workers, or the splits are too large.
    """

    on_gpu: bool = True

    train_set: TensorBatches
    val_set: TensorBatches
    test_set: TensorBatches

    def setup(self, stage: str) -> None:
        """Read all splits, once, and put them where the training is."""
        super().setup(stage)
        device = None if self.trainer is None else self.trainer.strategy.root_device
        if not self.on_gpu or device is None or device.type != "cuda":
            device = torch.device("cpu")
        for split in (getattr(self, name, None) for name in ("train_set", "val_set", "test_set")):
            if isinstance(split, TensorBatches):  # there may be none yet, see `plan_without_data`
                split.inputs, split.targets = split.inputs.to(device), split.targets.to(device)

    def loader(self, dataset: TensorBatches, **settings: Any) -> DataLoader[Batch]:
        """Batches as the data set gathered them."""
        return super().loader(dataset, collate_fn=_as_gathered, **settings)


def _as_gathered(batch: Any) -> Any:
    return batch
