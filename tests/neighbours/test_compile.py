"""torch.compile: the callback causes no graph, no graph break and no copy of a weight or mask."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch._dynamo.utils import counters

from rigl_lightning import RigL, SparseTrainingCallback
from tests.helpers.any_model import SCHEDULE, Task, batches, trainer

DATA = batches((4, 8))


class Network(nn.Sequential):
    """Has a forward of its own: older torch does not compile one of torch's own modules in place."""

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


def network():
    torch.manual_seed(0)
    return Network(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 3))


def whole(task, backend):
    return torch.compile(task, backend=backend)


def in_place(task, backend):
    task.compile(backend=backend)
    return task


def submodule(task, backend):
    task.network = torch.compile(task.network, backend=backend)
    return task


def submodule_in_place(task, backend):
    task.network.compile(backend=backend)
    return task


def function(task, backend):
    task.network.forward = torch.compile(task.network.forward, backend=backend)
    return task


WAYS = [whole, in_place, submodule, submodule_in_place, function]


class Graphs(pl.Callback):
    """Graphs and graph breaks so far, at each batch end, and where weights and masks lie."""

    def __init__(self, sparse=None):
        self.sparse, self.counts, self.addresses = sparse, [], set()

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.counts.append((counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())))
        masks = self.sparse.sparsifier.masks.values() if self.sparse else ()
        self.addresses.add(tuple(tensor.data_ptr() for tensor in (*pl_module.parameters(), *masks)))


def train(compiled, *sparse):
    """Counts at the ends of batches of a training from a compiler that knows nothing yet."""
    torch._dynamo.reset()
    counters.clear()
    graphs = Graphs(*sparse)
    task = compiled(Task(network()))
    trainer(*sparse, graphs).fit(task, DATA)
    assert len(graphs.addresses) == 1
    return graphs.counts


def rigl():
    return SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), seed=5)


@pytest.fixture(scope="module")
def eager():
    sparse = rigl()
    trainer(sparse).fit(Task(network()), DATA)
    return sparse.sparsifier.checksums()


@pytest.mark.parametrize("way", WAYS)
def test_no_graph_and_no_break_is_ours(way, eager):
    sparse = rigl()
    counts = train(lambda task: way(task, "aot_eager"), sparse)
    assert counts == train(lambda task: way(task, "aot_eager"))  # as many as without the callback, batch by batch
    assert counts[0] == counts[-1] == (1, 0)  # one graph, from the first batch over three mask updates to the last
    assert sparse.sparsifier.last_update.step == 6
    assert sparse.sparsifier.checksums() == eager


@pytest.mark.slow
def test_inductor(eager):
    sparse = rigl()
    assert set(train(lambda task: submodule_in_place(task, "inductor"), sparse)) == {(1, 0)}
    assert sparse.sparsifier.checksums() == eager


def test_compiling_between_two_fits_keeps_the_masks():
    sparse, task = rigl(), Task(network())
    run = trainer(sparse)
    run.fit(task, DATA)
    first = sparse.sparsifier
    task.network.compile(backend="aot_eager")
    run.fit_loop.max_epochs = 2
    run.fit(task, DATA)
    assert sparse.sparsifier is first
    assert first.step == 16
