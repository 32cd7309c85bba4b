"""ImageNet, or any folder of images sorted by class: read by workers, augmented by timm, exactly resumable."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import pil_loader

from rigl_lightning.data.image_files import ImageFiles, read_image_folder
from rigl_lightning.data.module import Batch, ResumableDataModule
from rigl_lightning.data.resumable import Position, ResumableSampler, SeededSampler

Transform = Callable[[Any], Tensor]
# Of the paper's augmentation: crops of random size and place, and flips; no colour.
PAPER_AUGMENTATION: Mapping[str, Any] = {"color_jitter": None, "interpolation": "bicubic"}
MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, by channel, in [0, 1]
MOST_WORKERS = 16


class ImageFolderDataModule(ResumableDataModule):
    """Normalised images (N, 3, R, R) and labels (N,) of a folder ``<root>/{train,val}/<class>/<image>``.

    Training images are cropped at random size and place, resized and flipped (timm's ImageNet transforms), validation
    images resized and cropped at the centre. Workers decode and crop; images travel as bytes, a quarter of the data,
    and are normalised on the training device. Validation and test are the same images: ImageNet's test labels are not
    public, and the paper reports the validation images'.

    Each image is augmented by a seed of its own, computed from (seed, epoch, image): what it looks like depends neither
    on the number of workers and processes nor on where a run was resumed.

    Args:
        root: Folder that holds ``train`` and ``val``.
        batch_size: Images in a batch *of each process*.
        total_batch_size: Images of one optimizer step, over all processes and accumulated batches, that the training
            has to have (4,096 in the paper); None for whatever comes out.
        resolution: Height and width of the crops; 224 in the paper.
        num_classes: Classes that have to be there; None for any number.
        train_images: Training images that have to be there (ImageNet: 1,281,167); None for any number.
        val_images: The same for validation (ImageNet: 50,000).
        num_workers: Processes that read images, for each training process; None: the CPU cores it may use, shared among
            the processes of this machine, at most 16. 0 reads in the training process itself.
        augmentation: More arguments of timm's ``create_transform`` for training, for example
            ``{auto_augment: rand-m9-mstd0.5, scale: [0.25, 1.0]}``.
        crop_fraction: Side of the central crop relative to that of the resized validation image.
        seed: Seed of order, augmentation and dropout. None: the seed of ``seed_everything``, or 0.
    """

    def __init__(
        self,
        root: str | Path = "data/imagenet",
        batch_size: int = 256,
        total_batch_size: int | None = None,
        resolution: int = 224,
        num_classes: int | None = None,
        train_images: int | None = None,
        val_images: int | None = None,
        num_workers: int | None = None,
        augmentation: dict[str, Any] | None = None,
        crop_fraction: float = 0.875,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        if resolution < 1:
            raise ValueError(
                f"Expected `resolution` of at least 1, got {resolution}. Set `resolution` of {type(self).__name__}."
            )
        if not 0 < crop_fraction <= 1:
            raise ValueError(
                f"Expected `crop_fraction` in (0, 1], got {crop_fraction}. Set `crop_fraction` of "
                f"{type(self).__name__}."
            )
        self.root = root
        self.total_batch_size = total_batch_size
        self.resolution = resolution
        self.num_classes = num_classes
        self.num_images = {split: n for split, n in (("train", train_images), ("val", val_images)) if n is not None}
        self.num_workers = num_workers
        self.train_transform = _transform(resolution, is_training=True, **(augmentation or {}))
        self.val_transform = _transform(resolution, is_training=False, crop_pct=crop_fraction)

    def prepare_data(self) -> None:
        """Say what is missing, on one process."""
        self._files()

    def setup(self, stage: str) -> None:
        """List the files of both splits, once.

        Raises:
            ValueError: If a step of the optimizer would not see ``total_batch_size`` images.
        """
        super().setup(stage)
        if stage == "fit" and self.total_batch_size is not None and self.trainer is not None:
            self._check_total(self.total_batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    def read_splits(self) -> None:
        """List the files of both splits."""
        files = self._files()
        self.train_set = SeededImages(files["train"], self.train_transform)
        self.val_set = Images(files["val"], self.val_transform)
        self.test_set = self.val_set

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed training batches, and normalise all; a module's example input, a bare tensor, passes as it is."""
        if isinstance(batch, Tensor):
            return batch
        images, labels = super().on_after_batch_transfer(batch, dataloader_idx)
        return normalised(images), labels

    def train_sampler(self, dataset: Sized, rank: int, world_size: int, position: Position | None) -> ResumableSampler:
        """Samples with their epoch, from which `SeededImages` makes their seeds."""
        return SeededSampler(dataset, self.seed, rank, world_size, position)

    def loader(self, dataset: Images, **settings: Any) -> DataLoader[Batch]:
        """Read by workers, which stay between epochs."""
        n_workers = self._n_workers()
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return LateLoader(
            dataset,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
            pin_memory=on_gpu,
            worker_init_fn=_one_thread,
            **settings,
        )

    def _check_total(self, expected: int, processes: int, accumulated: int) -> None:
        total = self.batch_size * processes * accumulated
        if total != expected:
            raise ValueError(
                f"Expected batch_size x processes x accumulated batches = {expected}, got "
                f"{self.batch_size} x {processes} x {accumulated} = {total}. Set `accumulate_grad_batches` of the "
                f"Trainer to {expected / self.batch_size / processes:g}, or `batch_size` or `total_batch_size` of "
                f"{type(self).__name__} (None: any)."
            )

    def _files(self) -> dict[str, ImageFiles]:
        return read_image_folder(self.root, self.num_classes, self.num_images)

    def _n_workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        processes = 1 if self.trainer is None else self.trainer.num_devices
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)) // processes) if hasattr(os, "sched_getaffinity") else 4


class Images(Dataset[tuple[Tensor, int]]):
    """Images as uint8 (3, R, R) and their labels, in the order of the files."""

    def __init__(self, files: ImageFiles, transform: Transform) -> None:
        # Arrays, which workers share; a list of a million strings would be copied piece by piece into each of them.
        self.paths = np.array(files.paths, dtype=np.bytes_ if _is_ascii(files.paths) else np.str_)
        self.labels = np.array(files.labels)
        self.transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image and its label."""
        path = self.paths[index]
        return self.transform(_read(path.decode() if isinstance(path, bytes) else str(path))), int(self.labels[index])


class SeededImages(Images):
    """Images augmented by a seed that comes with the sample."""

    def __getitem__(self, sample: Any) -> tuple[Tensor, int]:
        """The image of a `SeededSampler`'s sample."""
        index, seed = sample
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return super().__getitem__(index)


class LateLoader(DataLoader[Batch]):
    """A loader whose workers begin with its first batch.

    Lightning makes an iterator before it has read its progress from a checkpoint, and torch's would at once ask the
    sampler what comes first.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """All batches of an epoch."""
        yield from super().__iter__()


def normalised(images: Tensor) -> Tensor:
    """Images uint8 (N, 3, H, W) with ImageNet's mean and standard deviation of each channel made 0 and 1, float32."""
    mean, std = (
        torch.tensor(values, device=images.device).mul(255).view(1, 3, 1, 1) for values in (MEAN, STANDARD_DEVIATION)
    )
    return (images.float() - mean) / std


def _transform(resolution: int, **settings: Any) -> Transform:
    """Timm's ImageNet transform to bytes (3, R, R).

    Raises:
        ValueError: If timm does not know a setting.
    """
    from timm.data.transforms_factory import create_transform  # seconds to import; other data do not need it

    try:
        transform: Transform = create_transform(resolution, normalize=False, **{**PAPER_AUGMENTATION, **settings})
    except (TypeError, AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"Expected arguments of timm's create_transform, got {settings}: {error}. Set "
            "`augmentation` of the data module."
        ) from error
    return transform


def _read(path: str) -> Any:
    try:
        return pil_loader(path)
    except OSError as error:
        raise ValueError(
            f"Expected an image that can be read, got {path} ({error}). Remove it, or unpack it again."
        ) from error


def _is_ascii(paths: tuple[str, ...]) -> bool:
    return all(path.isascii() for path in paths)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
