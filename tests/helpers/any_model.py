"""Training of any network by the callback, with what must hold afterwards; shared by the tests of this folder."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from rigl_lightning import RigL, SparseTrainingCallback, UpdateSchedule
from rigl_lightning.sparsity.distributions import active_counts
from tests.helpers.small_runs import QUIET, Watch

N_STEPS = 8
SCHEDULE = UpdateSchedule(interval=3, end=N_STEPS)


class Task(pl.LightningModule):
    """Any network on batches ``(inputs, labels)``; inputs may be several."""

    def __init__(self, network, optimizer=None):
        super().__init__()
        self.network = network
        self.optimizer = optimizer

    def forward(self, *inputs):
        return self.network(*inputs)

    def training_step(self, batch, batch_idx):
        *inputs, labels = batch
        return torch.nn.functional.cross_entropy(self(*inputs).flatten(0, -2), labels.flatten())

    def configure_optimizers(self):
        make = self.optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
        return make([p for p in self.parameters() if p.requires_grad])


def batches(*shapes, classes=3, labels=None, vocabulary=None):
    """As many random batches as steps: inputs of the shapes, or tokens, and labels."""
    random = torch.Generator().manual_seed(0)

    def one():
        if vocabulary:
            inputs = [torch.randint(vocabulary, shape, generator=random) for shape in shapes]
        else:
            inputs = [torch.randn(shape, generator=random) for shape in shapes]
        return (*inputs, torch.randint(classes, labels or shapes[0][:1], generator=random))

    return DataLoader([one() for _ in range(N_STEPS)], batch_size=None)


def trainer(*callbacks, **settings):
    return pl.Trainer(callbacks=[*callbacks], **{"max_epochs": 1, "enable_checkpointing": False, **QUIET, **settings})


def train(make_network, data, path, **settings):
    """Train with RigL and check all promises; returns the task and the callback."""
    torch.manual_seed(0)
    sparse = SparseTrainingCallback(RigL(0.8, schedule=SCHEDULE, drop_fraction=0.5), seed=5, **settings)
    watch, task = Watch(sparse), Task(make_network())
    run = trainer(sparse, watch)
    run.fit(task, data)
    check(sparse, watch)
    run.save_checkpoint(path)
    check_checkpoint(path, task, make_network, next(iter(data)))
    return task, sparse


def check(sparse, watch):
    """Updates on time, masks that moved, the density asked for at every step."""
    sparsifier = sparse.sparsifier
    assert watch.updates == [0, 3, 6]
    assert sparsifier.step == N_STEPS
    assert sparsifier.exploration() > sum(sparsifier.n_active.values()) / sum(
        m.numel() for m in sparsifier.masks.values()
    )
    shapes = {name: p.shape for name, p in sparsifier.parameters.items()}
    expected = active_counts(shapes, sparsifier.algorithm.final_sparsities(shapes))
    assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} == expected
    assert len(set(watch.densities)) == 1


def check_checkpoint(path, task, make_network, batch):
    """The file is one of the plain network: same keys, loads strictly, computes the same."""
    saved = torch.load(path, weights_only=True)["state_dict"]
    plain = make_network()
    assert list(saved) == [f"network.{key}" for key in plain.state_dict()]
    plain.load_state_dict({key.removeprefix("network."): value for key, value in saved.items()}, strict=True)
    torch.testing.assert_close(plain.eval()(*batch[:-1]), task.eval()(*batch[:-1]))
