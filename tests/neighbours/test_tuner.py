"""The learning-rate finder and the batch-size finder leave no trace in sparse training."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.tuner import Tuner

from rigl_lightning import (
    DNW,
    ByDensity,
    GradualMagnitudePruning,
    RigL,
    SparseTrainingCallback,
    Uniform,
    UpdateSchedule,
)
from rigl_lightning.sparsity.algorithms import describe
from tests.helpers.small_runs import QUIET, SCHEDULE, SmallModel, Watch, plain_loader

RIGL = RigL(0.7, schedule=SCHEDULE)
PRUNING = GradualMagnitudePruning(0.7, schedule=UpdateSchedule(interval=2, begin=1, end=5))
HIDING = DNW(0.7, schedule=UpdateSchedule(interval=1, end=18))


class Tuned(SmallModel):
    def __init__(self):
        super().__init__(dropout=0.0)
        self.learning_rate = 0.1

        self.searched = []

    def training_step(self, batch, batch_idx):
        if not any(isinstance(callback, SparseTrainingCallback) for callback in self.trainer.callbacks):
            self.searched.append({name: p.detach() != 0 for name, p in self.named_parameters()})
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class PlainData(pl.LightningDataModule):
    """An ordinary DataLoader: between two fits Lightning's finders get no batch of one that resumes exactly."""

    batch_size = 4

    def train_dataloader(self):
        return plain_loader(self.batch_size)

    val_dataloader = train_dataloader


def find_learning_rate(trainer, model, data):
    assert Tuner(trainer).lr_find(model, data, num_training=10, early_stop_threshold=None, update_attr=False).results


def find_batch_size(trainer, model, data):
    assert Tuner(trainer).scale_batch_size(model, data, max_trials=2, init_val=2) > 2
    data.batch_size = 4


def outcome(tmp_path, search=None, when="never", callbacks=(), algorithm=RIGL):
    """Everything that training leaves behind: masks, steps, updates, weights, momenta."""
    sparse = SparseTrainingCallback(algorithm, seed=5)
    watch, model, data = Watch(sparse), Tuned(), PlainData()
    settings = {"max_epochs": 1, "enable_checkpointing": False, "default_root_dir": tmp_path, **QUIET}
    trainer = pl.Trainer(callbacks=[*callbacks, sparse, watch], **settings)
    if when == "before":
        search(trainer, model, data)
    trainer.fit(model, data)
    first = sparse.sparsifier.network.first_masks()
    now = {name: mask.clone() for name, mask in sparse.sparsifier.masks.items()}
    if when == "between":  # in a Trainer of its own: one whose fit has ended finds no batch to search with
        search(pl.Trainer(callbacks=[sparse, watch], **settings), model, data)
        assert sparse.sparsifier.step == 6
    assert bool(model.searched) == (when != "never" or bool(callbacks))
    masks = now if when == "between" else first
    for active in model.searched:  # every batch of the search was computed by the sparse network
        assert all(not (active[name] & ~mask).any() for name, mask in masks.items())
    trainer.callbacks = [c for c in trainer.callbacks if c not in callbacks]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, data)
    sparsifier = sparse.sparsifier
    state = trainer.optimizers[0].state_dict()["state"].values()
    tensors = [*model.parameters(), *(entry["momentum_buffer"] for entry in state)]
    seen = sparsifier.step, watch.updates, sparsifier.checksums(), sparsifier.initial_weights
    return *seen, [t.detach().tolist() for t in tensors]


@pytest.fixture(scope="module")
def untuned(tmp_path_factory):
    return {
        describe(algorithm): outcome(tmp_path_factory.mktemp("untuned"), algorithm=algorithm)
        for algorithm in (RIGL, HIDING, PRUNING)
    }


@pytest.mark.parametrize(
    ("algorithm", "search", "when"),
    [
        *((RIGL, search, when) for search in (find_learning_rate, find_batch_size) for when in ("before", "between")),
        (HIDING, find_learning_rate, "before"),
        (HIDING, find_learning_rate, "between"),
        (PRUNING, find_learning_rate, "between"),
    ],
)
def test_a_search_tries_the_sparse_network_and_leaves_everything_as_it_was(algorithm, search, when, untuned, tmp_path):
    """Masks, steps, initial weights, weights and momenta; also weights that are hidden while inactive."""
    assert outcome(tmp_path, search, when, algorithm=algorithm) == untuned[describe(algorithm)]


class KeepsRate(LearningRateFinder):
    """Searches and keeps the rate of the other runs."""

    def __init__(self):
        super().__init__(num_training_steps=10, early_stop_threshold=None, update_attr=False)


@pytest.mark.parametrize("finder", [KeepsRate, lambda: BatchSizeFinder(max_trials=2)], ids=["rate", "batch size"])
def test_a_finder_among_the_callbacks_does_so_too(finder, untuned, tmp_path):
    found = finder()
    assert outcome(tmp_path, callbacks=[found]) == untuned[describe(RIGL)]  # the batch size found is that of the others
    assert not {"lr_find", "scale_batch_size"} & vars(found).keys()  # it is itself again


class AtMilestones(KeepsRate):
    """As in Lightning's documentation: a search at the beginning of an epoch, in the middle of fit."""

    def on_fit_start(self, *args):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


def test_a_search_in_the_middle_of_fit_tries_the_masks_of_the_moment(tmp_path):
    sparse = SparseTrainingCallback(RIGL, seed=5)
    watch, model = Watch(sparse), Tuned()
    settings = {"max_epochs": 3, "enable_checkpointing": False, "default_root_dir": tmp_path, **QUIET}
    pl.Trainer(callbacks=[sparse, watch, AtMilestones()], **settings).fit(model, plain_loader())
    assert (sparse.sparsifier.step, watch.updates) == (18, [0, 3, 6, 9])
    assert model.searched
    assert all(sum(int(active[n].sum()) for n in sparse.sparsifier.masks) <= 44 for active in model.searched)


class TellsWeights(SmallModel):
    """Notes the weights of the second layer at every batch."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.learning_rate, self.seen = 0.1, []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.net[3].weight.detach().clone())
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def seen_in_a_search(tmp_path, **by_density):
    algorithm = RigL(0.75, Uniform(), SCHEDULE)  # the first layer is dense
    sparse, model = SparseTrainingCallback(algorithm, seed=5, by_density=ByDensity(**by_density)), TellsWeights()
    trainer = pl.Trainer(callbacks=sparse, enable_checkpointing=False, default_root_dir=tmp_path, max_epochs=1, **QUIET)
    before = [p.clone() for p in model.parameters()]
    find_learning_rate(trainer, model, PlainData())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    return model.seen


def test_a_search_tries_weights_and_learning_rates_by_density(tmp_path):
    plain, rate, first = (seen_in_a_search(tmp_path, **by) for by in ({}, {"learning_rate": 1.0}, {"init": True}))
    assert torch.equal(rate[0], plain[0])
    torch.testing.assert_close(rate[1] - rate[0], 4 * (plain[1] - plain[0]))  # a density of a quarter
    scale = (16 / (plain[0] != 0).sum(1, keepdim=True)).sqrt()
    torch.testing.assert_close(first[0], plain[0] * scale)


def test_a_search_that_fails_leaves_the_dense_weights(tmp_path):
    class Fails(Tuned):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("boom")

    sparse, model = SparseTrainingCallback(RIGL, seed=5), Fails()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = pl.Trainer(callbacks=sparse, enable_checkpointing=False, default_root_dir=tmp_path, max_epochs=1, **QUIET)
    with pytest.raises(RuntimeError, match="boom"):
        find_learning_rate(trainer, model, PlainData())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
