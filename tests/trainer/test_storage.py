"""SparseTrainingCallback(storage=...): the same training, with vectors of active values in the place of weights."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateFinder, ModelCheckpoint, WeightAveraging
from torch import nn

from rigl_lightning import (
    SET,
    GradualMagnitudePruning,
    GraNet,
    OneShotMagnitude,
    RigL,
    SparseTrainingCallback,
    Uniform,
    UpdateSchedule,
)
from rigl_lightning.compute import timed_choice
from tests.helpers.small_runs import QUIET, SmallData, SmallModel

SCHEDULE = UpdateSchedule(3, end=1.0)
EVERYWHERE = Uniform(first_layer_dense=False)
ALGORITHMS = {
    "RigL": RigL(0.7, EVERYWHERE, SCHEDULE),
    "SET": SET(0.7, EVERYWHERE, SCHEDULE),
    "GraNet": GraNet(0.8, 0.7, EVERYWHERE, SCHEDULE, ramp_end=10),
}


def fit(storage, algorithm=ALGORITHMS["RigL"], model=None, callbacks=(), ckpt_path=None, compute="sparse", **settings):
    sparse = SparseTrainingCallback(algorithm, seed=5, compute=compute, storage=storage, strict=True)
    settings = {"max_epochs": 3, "enable_checkpointing": False, **QUIET, **settings}
    trainer = pl.Trainer(callbacks=[sparse, *callbacks], **settings)
    model = model or SmallModel()
    trainer.fit(model, SmallData(), ckpt_path=ckpt_path)
    return model, sparse, trainer


def sparse_of(trainer):
    return next(c for c in trainer.callbacks if isinstance(c, SparseTrainingCallback))


class Watch(pl.Callback):
    """How many weights were compact after each batch."""

    def __init__(self):
        self.compact = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.compact.append(len(sparse_of(trainer).sparsifier.compact))


def assert_plain(model):
    assert [type(m) for m in model.net] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert all(m.weight.shape == (m.out_features, m.in_features) for m in model.net if isinstance(m, nn.Linear))


@pytest.mark.parametrize(
    "algorithm",
    [GradualMagnitudePruning(0.7, schedule=UpdateSchedule(2, 2, 8)), OneShotMagnitude(0.7, at=4)],
    ids=lambda algorithm: type(algorithm).__name__,
)
@pytest.mark.parametrize("n_accumulated", [1, 2])
def test_a_layer_may_become_sparse_between_two_batches_of_a_step(algorithm, n_accumulated):
    """The forward pass makes it compact, and the optimizer's state follows at the step."""
    settings = {"max_epochs": 4, "accumulate_grad_batches": n_accumulated}
    expected, _, _ = fit("dense", algorithm, SmallModel(lr=0.05, momentum=0.9), **settings)
    model, _, _ = fit("connections", algorithm, SmallModel(lr=0.05, momentum=0.9), **settings)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "max_epochs": 6}],
    ids=["plain", "accumulated and clipped"],
)
def test_masks_and_weights_are_those_of_dense_storage(name, settings):
    expected, reference, _ = fit("dense", ALGORITHMS[name], **settings)
    watch = Watch()
    model, sparse, _ = fit("connections", ALGORITHMS[name], callbacks=[watch], **settings)
    assert set(watch.compact) == {2}
    assert sparse.sparsifier.checksums() == reference.sparsifier.checksums()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-5, atol=1e-7)
    assert sparse.metrics() == reference.metrics()
    assert_plain(model)
    assert not sparse.sparsifier.compact


@pytest.mark.parametrize("stop", [4, 7])
def test_a_checkpoint_is_dense_and_resumes_exactly_in_either_storage(tmp_path, stop):
    whole, reference, _ = fit("connections", max_epochs=-1, max_steps=14)
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
    fit("connections", callbacks=[every], max_epochs=-1, max_steps=14, enable_checkpointing=True)
    path = tmp_path / f"step={stop}.ckpt"
    saved = torch.load(path, weights_only=True)
    assert {k: v.shape for k, v in saved["state_dict"].items()} == {k: v.shape for k, v in whole.state_dict().items()}
    states = saved["optimizer_states"][0]["state"].values()
    shapes = [tuple(p.shape) for p in whole.parameters()]
    assert [tuple(next(v for v in state.values() if v.ndim).shape) for state in states] == shapes
    SmallModel().load_state_dict(saved["state_dict"], strict=True)
    for storage in ("connections", "dense"):
        resumed, sparse, _ = fit(storage, max_epochs=-1, max_steps=14, ckpt_path=path)
        assert sparse.sparsifier.checksums() == reference.sparsifier.checksums()
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), key


def test_an_exception_leaves_a_plain_module_and_test_sees_one():
    class Fails(SmallModel):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                assert self.net[0]._parameters["weight"].ndim == 1
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    with pytest.raises(ZeroDivisionError):
        fit("connections", model=(failing := Fails()))
    assert_plain(failing)

    class Tests(SmallModel):
        def test_step(self, batch, batch_idx):
            assert self.net[0]._parameters["weight"].ndim == 2

    model, sparse, trainer = fit("connections", model=Tests())
    trainer.test(model, SmallData(), verbose=False)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(model, SmallData())
    assert_plain(model)


def test_copies_and_pickles_in_the_middle_are_plain():
    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 1:
                assert sparse_of(trainer).sparsifier.compact
                plain = copy.deepcopy(pl_module.net)
                again = pickle.loads(pickle.dumps(pl_module.net))
                for copied in (plain, again):
                    assert type(copied[0]) is nn.Linear
                    assert torch.equal(copied[0].weight, pl_module.net.state_dict()["0.weight"])
                pickle.dumps(sparse_of(trainer))
                assert copy.deepcopy(sparse_of(trainer)).sparsifier.checksums()

    fit("connections", callbacks=[Copies()], max_epochs=1)


def test_finders_search_with_dense_weights():
    class Finds(LearningRateFinder):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                assert sparse_of(trainer).sparsifier.compact
                self.lr_find(trainer, pl_module)
                assert not sparse_of(trainer).sparsifier.compact

        def on_fit_start(self, *_):
            pass

    watch = Watch()
    finder = Finds(num_training_steps=5, update_attr=False)
    fit("connections", callbacks=[finder, watch])
    assert watch.compact
    assert set(watch.compact) == {2}


@pytest.fixture
def faster(monkeypatch):
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 0)
    monkeypatch.setattr(timed_choice, "_seconds", lambda layer, *_: 0.1 if "_timed_sparse" in str(layer) else 1.0)


def test_auto_stores_connections_where_they_are_faster_and_nobody_may_read_weights(faster, caplog):
    caplog.set_level("INFO")
    with torch.no_grad():
        fit("auto", compute="auto", max_epochs=1)
    assert "sparse   connections" in caplog.text
    caplog.clear()
    watch = Watch()
    fit("auto", compute="auto", callbacks=[watch], max_epochs=1)
    assert set(watch.compact) == {0}
    assert "Watch may read the weights" in caplog.text


class Reading(SmallModel):
    """Has a penalty on its matrices, and a slow copy of itself."""

    def __init__(self):
        super().__init__()
        self.slow = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        matrices = [parameter for parameter in self.net.parameters() if parameter.ndim > 1]
        return super().training_step(batch, batch_idx) + 0.01 * sum(m.square().sum() for m in matrices)

    def on_train_batch_start(self, *_):
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


def test_a_module_that_reads_its_parameters_trains_as_with_dense_storage(tmp_path):
    expected, reference, _ = fit("dense", model=Reading())
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    model, sparse, _ = fit("auto", model=Reading(), callbacks=[every], enable_checkpointing=True)
    assert sparse.sparsifier.checksums() == reference.sparsifier.checksums()
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-6)
    resumed, *_ = fit("auto", model=Reading(), ckpt_path=tmp_path / "step=7.ckpt")
    torch.testing.assert_close(resumed.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_averaged_weights_and_optimizers_over_whole_tensors_keep_dense_weights():
    with pytest.warns(UserWarning, match="stored densely: .*WeightAveraging averages the weights"):
        fit("connections", callbacks=[WeightAveraging()], max_epochs=1)

    class Whole(SmallModel):
        def configure_optimizers(self):
            return torch.optim.Adafactor(self.parameters(), lr=1e-3)

    with pytest.warns(UserWarning, match="Adafactor is not known to update every element by itself"):
        fit("connections", model=Whole(), max_epochs=1)


def test_flops_are_those_of_dense_storage():
    class Nameless(SmallModel):
        example_input_array = None

    assert fit("connections", model=Nameless())[1].flops.dense == fit("dense", model=Nameless())[1].flops.dense != {}


def test_connections_cannot_be_computed_densely():
    with pytest.raises(ValueError, match=r"Set `compute` or `storage` of SparseTrainingCallback"):
        SparseTrainingCallback(RigL(), compute="dense", storage="connections")
