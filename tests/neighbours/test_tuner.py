"""The learning-rate finder and the batch-size finder leave no trace in sparse training."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.tuner import Tuner
from small_runs import QUIET, SCHEDULE, SmallData, SmallModel, Watch

from rigl_lightning import RigL, SparseTrainingCallback


class Tuned(SmallModel):
    def __init__(self):
        super().__init__(dropout=0.0)
        self.learning_rate = 0.1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


def find_learning_rate(trainer, model, data):
    assert Tuner(trainer).lr_find(model, data, num_training=10, early_stop_threshold=None, update_attr=False).results


def find_batch_size(trainer, model, data):
    assert Tuner(trainer).scale_batch_size(model, data, max_trials=2, init_val=2) > 2
    data.batch_size = 4


def outcome(tmp_path, search=None, when="never", callbacks=()):
    """Everything that training leaves behind: masks, steps, updates, weights, momenta."""
    sparse = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), seed=5)
    watch, model, data = Watch(sparse), Tuned(), SmallData()
    settings = {"max_epochs": 1, "enable_checkpointing": False, "default_root_dir": tmp_path, **QUIET}
    trainer = pl.Trainer(callbacks=[*callbacks, sparse, watch], **settings)
    if when == "before":
        search(trainer, model, data)
    trainer.fit(model, data)
    if when == "between":
        search(trainer, model, data)
        assert sparse.sparsifier.step == 6
    trainer.callbacks = [c for c in trainer.callbacks if c not in callbacks]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, data)
    sparsifier = sparse.sparsifier
    state = trainer.optimizers[0].state_dict()["state"].values()
    tensors = [*model.parameters(), *(entry["momentum_buffer"] for entry in state)]
    return sparsifier.step, watch.updates, sparsifier.checksums(), [t.detach().tolist() for t in tensors]


@pytest.fixture(scope="module")
def untuned(tmp_path_factory):
    return outcome(tmp_path_factory.mktemp("untuned"))


@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("search", [find_learning_rate, find_batch_size])
def test_a_search_leaves_masks_steps_weights_and_momenta_as_they_were(search, when, untuned, tmp_path):
    assert outcome(tmp_path, search, when) == untuned


class KeepsRate(LearningRateFinder):
    """Searches and keeps the rate of the other runs."""

    def __init__(self):
        super().__init__(num_training_steps=10, early_stop_threshold=None, update_attr=False)


@pytest.mark.parametrize("finder", [KeepsRate, lambda: BatchSizeFinder(max_trials=2)], ids=["rate", "batch size"])
def test_a_finder_among_the_callbacks_does_not_either(finder, untuned, tmp_path):
    assert outcome(tmp_path, callbacks=[finder()]) == untuned  # the batch size found is the 4 of the other runs
