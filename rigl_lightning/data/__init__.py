"""The data of the benchmarks: held in memory, in an order that a resumed run takes up exactly."""

from rigl_lightning.data.cifar10 import CIFAR10DataModule
from rigl_lightning.data.digits import DigitsDataModule
from rigl_lightning.data.image_folder import ImageFolderDataModule
from rigl_lightning.data.in_memory import InMemoryDataModule, TensorBatches
from rigl_lightning.data.mnist import MNISTDataModule
from rigl_lightning.data.module import ResumableDataModule
from rigl_lightning.data.resumable import ResumableSampler
from rigl_lightning.data.text_bytes import TextBytesDataModule

__all__ = [
    "CIFAR10DataModule",
    "DigitsDataModule",
    "ImageFolderDataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "ResumableDataModule",
    "ResumableSampler",
    "TensorBatches",
    "TextBytesDataModule",
]
