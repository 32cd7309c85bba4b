"""Tiny data sets in the official formats, so that no test downloads anything."""

import inspect
import logging
import os
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader
from torchvision.datasets import CIFAR10

from rigl_lightning import SparseTrainingCallback

N_PER_FILE = 4

# `make test-sparse` runs all tests with truly sparse layers wherever a test does not ask for something else.
DEFAULT_COMPUTE = os.environ.get("RIGL_LIGHTNING_TEST_COMPUTE")
if DEFAULT_COMPUTE:
    defaults = {name: p.default for name, p in inspect.signature(SparseTrainingCallback).parameters.items()}
    defaults["compute"] = DEFAULT_COMPUTE
    SparseTrainingCallback.__init__.__defaults__ = tuple(
        v for v in defaults.values() if v is not inspect.Parameter.empty
    )

torch.set_num_threads(1)  # the networks are tiny, and threads that wait for each other are slow on a busy machine


@pytest.fixture(autouse=True)
def forgotten_modules(tmp_path_factory):
    """What a test imports of files it has written is not there for the next: several write a ``mine.py``."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(vars(sys.modules[name]).get("__file__")).startswith(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def as_fast_as_usual():
    """``Trainer(deterministic=True)`` holds for the whole process; under it ``compute="auto"`` is dense."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def caplog_lightning(monkeypatch):
    """caplog hears Lightning, which keeps its messages to itself where it was imported before pytest listened."""
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "propagate", True)


@pytest.fixture(autouse=True)
def whole_data_loaders():
    """No test may leave DataLoader patched, as Lightning does if making a loader fails: later tests would break."""
    before = {cls: cls.__init__ for cls in (DataLoader, BatchSampler)}
    yield
    left_patched = [cls.__name__ for cls, init in before.items() if cls.__init__ is not init]
    for cls, init in before.items():
        cls.__init__ = init
    assert not left_patched, "raise in the DataModule's setup, not while a loader is made"


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """A CIFAR-10 of 20 + 4 random images in the official format, past torchvision's checksums."""
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = random.integers(0, 256, (N_PER_FILE, 3072), dtype=np.uint8)
        content = {"data": data, "labels": random.integers(0, 10, N_PER_FILE).tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    return tmp_path


@pytest.fixture
def mnist_root(tmp_path):
    """An MNIST of 6 + 3 images whose pixels are 0 and 255, in the official format."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, n in (("train", 6), ("t10k", 3)):
        pixels = np.zeros((n, 28, 28), dtype=np.uint8)
        pixels[:, 0, 1] = 255
        images = struct.pack(">iiii", 0x803, n, 28, 28) + pixels.tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">ii", 0x801, n) + bytes(range(n))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path
