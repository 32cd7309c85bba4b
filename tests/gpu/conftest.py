"""Tests of a real GPU. RIGL_LIGHTNING_GPU_TESTS=cpu rehearses on the CPU what needs no CUDA of its own."""

import os

import pytest
import torch

REHEARSAL = os.environ.get("RIGL_LIGHTNING_GPU_TESTS") == "cpu"


@pytest.fixture(autouse=True)
def device():
    if REHEARSAL:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and there is none")
    return torch.device("cuda", 0)


@pytest.fixture
def cuda(device):
    """For what only CUDA has."""
    if device.type != "cuda":
        pytest.skip("needs CUDA itself, and this is a rehearsal on the CPU")
    return device


@pytest.fixture
def accelerator(device):
    return "gpu" if device.type == "cuda" else "cpu"


@pytest.fixture
def waiting(device):
    """Says what waiting for the GPU is: "error" or "default". A rehearsal runs the same test without the question."""
    if device.type != "cuda":
        yield lambda mode: None
        return
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")
