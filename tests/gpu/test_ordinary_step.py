"""An ordinary step, one without a mask update: nothing waits for the GPU, and a CUDA graph can hold it."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning import (
    SET,
    SNFS,
    GradualMagnitudePruning,
    RigL,
    SparseTrainingCallback,
    Sparsifier,
    Static,
    UpdateSchedule,
    select_parameters,
)
from rigl_lightning.models import WideResNet
from rigl_lightning.sparsity.invariants import violations
from tests.helpers.small_runs import SmallData, SmallModel

pytestmark = pytest.mark.gpu

SCHEDULE = UpdateSchedule(interval=8, begin=0, end=1000)
WITHOUT_WAITING = {
    "Static": Static(0.8),
    "SET": SET(0.8, schedule=SCHEDULE),
    "RigL": RigL(0.8, schedule=SCHEDULE),
    "SNFS": SNFS(0.8, schedule=SCHEDULE),
    "GradualMagnitudePruning": GradualMagnitudePruning(0.8, schedule=replace(SCHEDULE, end=16)),
}


def network(device, channels_last=False):
    torch.manual_seed(0)
    model = WideResNet(10, 1).to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def data(device):
    return torch.randn(16, 3, 16, 16, device=device), torch.randint(10, (16,), device=device)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_nothing_waits(name, channels_last, device, waiting):
    model = network(device, channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = Sparsifier(select_parameters(model), WITHOUT_WAITING[name])
    images, labels = data(device)
    for step in range(12):
        waiting("error" if step > 0 and not SCHEDULE.is_update(step) else "default")
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    waiting("default")
    assert not violations(sparsifier, optimizer)


class Waiting(pl.Callback):
    """Makes waiting an error from before our callback's part of an ordinary step until after it."""

    def __init__(self, sparse, first, waiting):
        self.sparse, self.first, self.waiting = sparse, first, waiting

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        step = self.sparse.sparsifier.step
        if self.first and step > 0 and not SCHEDULE.is_update(step):
            self.waiting("error")

    def on_train_batch_end(self, trainer, pl_module, *_):
        if not self.first:
            self.waiting("default")


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_nothing_in_the_callback_waits(name, accelerator, waiting):
    sparse = SparseTrainingCallback(WITHOUT_WAITING[name], seed=5)
    callbacks = [Waiting(sparse, True, waiting), sparse, Waiting(sparse, False, waiting)]
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    settings = {"accelerator": accelerator, "devices": 1, "max_epochs": 3, **dict.fromkeys(quiet, False)}
    trainer = pl.Trainer(callbacks=callbacks, **settings)
    trainer.fit(SmallModel(), SmallData())
    assert sparse.sparsifier.step == 18


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_a_cuda_graph_holds_an_ordinary_step(name, cuda, monkeypatch):
    """Replayed steps give what eager ones give, and the graph follows a mask update between two replays."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    runs = []
    for captured in (False, True):
        model = network(cuda)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        sparsifier = Sparsifier(select_parameters(model), WITHOUT_WAITING[name], seed=1)
        images, labels = data(cuda)

        def step(model=model, optimizer=optimizer, sparsifier=sparsifier, images=images, labels=labels):
            optimizer.zero_grad()  # a graph then has gradients of its own, which no update takes away
            F.cross_entropy(model(images), labels).backward()
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)

        runs.append((sparsifier, model, _train(step, sparsifier, images, captured)))
    (eager, ours, _), (replayed, theirs, n_replayed) = runs
    assert n_replayed > 10
    assert eager.step == replayed.step == 20
    assert not violations(replayed)
    assert eager.checksums() == replayed.checksums()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def _train(step, sparsifier, images, captured):
    """Twenty steps on fresh inputs in the same place; the number of them that a graph has replayed."""
    generator = torch.Generator().manual_seed(3)
    graph, n_replayed, n_ordinary = None, 0, 0
    stream = torch.cuda.Stream()
    while sparsifier.step < 20:
        images.copy_(torch.randn(images.shape, generator=generator))
        if not captured or sparsifier.algorithm.is_update(sparsifier.step) or n_ordinary < 3:
            n_ordinary += not sparsifier.algorithm.is_update(sparsifier.step)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream().wait_stream(stream)
            continue
        if graph is None:
            graph, before = torch.cuda.CUDAGraph(), sparsifier.step
            with torch.cuda.graph(graph):
                step()
            sparsifier.step = before  # capturing has done nothing
        graph.replay()
        sparsifier.step += 1
        n_replayed += 1
    return n_replayed


def test_an_update_cannot_be_captured_and_says_so(cuda):
    model = nn.Linear(16, 16).to(cuda)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(select_parameters(model), RigL(0.8, schedule=SCHEDULE))
    model.weight.grad = torch.zeros_like(model.weight)
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match="ordinary step"):
        sparsifier.before_step(optimizer)
