"""The benchmark of a GPU, as far as a CPU shows it."""

import argparse
import gc
import weakref
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from benchmarks import gpu


def test_a_replayed_step_keeps_what_its_graph_writes_to(monkeypatch):
    """A CUDA graph does not own the weights, momenta and masks whose addresses it holds."""
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    training = gpu.Training(gpu.cases(quick=True)["LeNet-300-100, batch 4"], sparse=True)
    held = [weakref.ref(thing) for thing in (training.model, training.optimizer, training.sparsifier)]
    replay = training.captured()
    del training
    gc.collect()
    assert all(thing() is not None for thing in held)
    replay()
    del replay
    gc.collect()
    assert all(thing() is None for thing in held)


def options(out, budget=float("inf")):
    return argparse.Namespace(out=out, budget=budget, quick=True, rounds=2, least=0.001, networks=["LeNet"])


@pytest.mark.slow
def test_a_part_that_fails_takes_no_other_with_it(tmp_path):
    gpu.run_parts(["missing", "updates"], options(tmp_path / "gpu.md"))
    text = (tmp_path / "gpu.md").read_text()
    assert "missing failed: KeyError" in text
    assert "| LeNet-300-100, batch 4 | 266,200 |" in text


@pytest.mark.slow
def test_a_part_that_outlasts_the_budget_is_cut_off(tmp_path):
    gpu.run_parts(["updates", "steps"], options(tmp_path / "gpu.md", budget=0.01))
    text = (tmp_path / "gpu.md").read_text()
    assert "updates was cut off, for want of time." in text
    assert "Not measured, for want of time: steps." in text
