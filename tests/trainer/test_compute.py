"""SparseTrainingCallback(compute=...): the same training, by other products."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning import RigL, SparseTrainingCallback, Static
from rigl_lightning.compute import timed_choice
from rigl_lightning.kernels import available
from tests.helpers.process_groups import run_in_world, train_in_world
from tests.helpers.small_runs import ALGORITHMS, QUIET, SCHEDULE, SmallData, SmallModel

ACCUMULATED = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "max_epochs": 6}
RIGL = RigL(0.7, schedule=SCHEDULE)


def fit(compute, algorithm=RIGL, model=None, callbacks=(), ckpt_path=None, **settings):
    sparse = SparseTrainingCallback(algorithm, seed=5, compute=compute)
    settings = {"max_epochs": 3, "enable_checkpointing": False, **QUIET, **settings}
    trainer = pl.Trainer(callbacks=[sparse, *callbacks], **settings)
    model = model or SmallModel()
    trainer.fit(model, SmallData(), ckpt_path=ckpt_path)
    return model, sparse


class Modes(pl.Callback):
    """How the layers were computed in training, and whether validation left them alone."""

    def __init__(self, sparse=None):
        self.training, self.validation = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        compute = trainer.callbacks[0].computing.running
        self.training.append([layer.is_sparse for layer in compute.layers])

    def on_validation_start(self, trainer, pl_module):
        for layer in trainer.callbacks[0].computing.running.layers:
            layer.was_called = False

    def on_validation_end(self, trainer, pl_module):
        self.validation += [layer.was_called for layer in trainer.callbacks[0].computing.running.layers]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("settings", [{}, ACCUMULATED], ids=["plain", "accumulated"])
def test_masks_are_those_of_the_dense_computation(name, settings):
    dense, expected = fit("dense", ALGORITHMS[name], **settings)
    modes = Modes()
    model, sparse = fit("sparse", ALGORITHMS[name], callbacks=[modes], **settings)
    assert sparse.sparsifier.checksums() == expected.sparsifier.checksums()
    for key, value in dense.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-3, atol=1e-5)
    assert any(map(any, modes.training)) or name == "dense"
    assert not any(modes.validation)
    assert sparse.metrics() == expected.metrics()


def test_manual_optimization_and_several_calls_of_a_layer():
    class Manual(SmallModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) + self(-batch[0]).square().mean())
            optimizer.step()

    dense, expected = fit("dense", model=Manual())
    model, sparse = fit("sparse", model=Manual())
    assert sparse.sparsifier.checksums() == expected.sparsifier.checksums()


@pytest.mark.parametrize("stop", [4, 7])
def test_a_resumed_sparse_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop):
    whole, expected = fit("sparse", max_epochs=-1, max_steps=14)
    trainer_settings = {"max_epochs": -1, "enable_checkpointing": False, **QUIET}
    sparse = SparseTrainingCallback(RIGL, seed=5, compute="sparse")
    trainer = pl.Trainer(callbacks=[sparse], max_steps=stop, **trainer_settings)
    sparse.sparsifier = None
    trainer.fit(SmallModel(), SmallData())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    half = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert half["state_dict"].keys() == SmallModel().state_dict().keys()
    SmallModel().load_state_dict(half["state_dict"], strict=True)
    resumed, again = fit("sparse", ckpt_path=tmp_path / "half.ckpt", max_epochs=-1, max_steps=14)
    assert again.sparsifier.checksums() == expected.sparsifier.checksums()
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_auto_takes_its_choices_from_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 0)
    monkeypatch.setattr(timed_choice, "LARGEST_DENSITY", 1)
    monkeypatch.setattr(timed_choice, "_seconds", lambda layer, *_: 0.1 if "_timed_sparse" in str(layer) else 1.0)
    sparse = SparseTrainingCallback(Static(0.7), seed=5, compute="auto")
    trainer = pl.Trainer(callbacks=[sparse], max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(SmallModel(), SmallData())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    monkeypatch.setattr(timed_choice, "_seconds", lambda *_: pytest.fail("measured again"))
    modes = Modes()
    fit("auto", Static(0.7), callbacks=[modes], ckpt_path=tmp_path / "half.ckpt")
    assert all(map(all, modes.training))


def test_two_processes_have_the_masks_of_one_and_of_the_dense_computation(tmp_path):
    for compute in ("dense", "sparse"):
        train_in_world(tmp_path / compute, RIGL, compute=compute)
        run_in_world(2, train_in_world, tmp_path / compute, RIGL, "ddp", None, None, compute)
    one, *others = (
        torch.load(tmp_path / way / f"{run}.pt") for way in ("dense", "sparse") for run in ("1-0", "2-0", "2-1")
    )
    for other in others:
        for layer, mask in one["masks"].items():
            assert torch.equal(other["masks"][layer], mask), layer
        for key, weight in one["weights"].items():
            torch.testing.assert_close(other["weights"][key], weight, rtol=1e-4, atol=1e-6)
    first, second = others[-2:]
    assert all(torch.equal(second["weights"][key], value) for key, value in first["weights"].items())


def test_modules_are_given_back_after_fit_and_after_an_exception():
    model, sparse = fit("sparse")
    assert [type(m) for m in model.net] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert sparse.computing.running is None
    pickle.dumps((model, sparse))

    class Fails(SmallModel):
        def training_step(self, batch, batch_idx):
            assert type(self.net[0]) is not nn.Linear
            if batch_idx == 2:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    with pytest.raises(ZeroDivisionError):
        fit("sparse", model=(failing := Fails()))
    assert type(failing.net[0]) is nn.Linear


def test_dense_installs_nothing_and_is_the_computation_of_before():
    class Plain(SmallModel):
        def training_step(self, batch, batch_idx):
            assert type(self.net[0]) is nn.Linear
            return super().training_step(batch, batch_idx)

    fit("dense", model=Plain())


def test_the_choice_is_shown_after_the_first_batch(capture_info):
    fit("sparse", Static(0.7))
    assert f"compute=sparse: sparse kernels ({available()[0]} tier) compute 2 of 2 sparse layers" in capture_info()
    fit("auto", Static(0.7))
    assert "compute=auto: dense operators compute all 2 sparse layers" in (text := capture_info())
    assert "too small to gain" in text


def test_layers_that_cannot_be_sparse_are_a_warning_if_sparse_is_asked_for():
    class WithConv(SmallModel):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))

    with pytest.warns(UserWarning, match=r"these layers are dense: net.1.weight \(not a Linear, Conv2d"):
        fit("sparse", Static(0.5), model=WithConv())


def test_compiled_modules_stay_dense():
    class Compiled(SmallModel):
        def __init__(self):
            super().__init__()
            self.net.compile(backend="eager")

    with pytest.warns(UserWarning, match=r"goes through torch.compile, and stays dense"):
        fit("sparse", Static(0.5), model=Compiled(), max_epochs=1)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=r"Set `compute` of SparseTrainingCallback"):
        SparseTrainingCallback(Static(0.7), compute="fast")


@pytest.fixture
def capture_info(caplog):
    caplog.set_level("INFO")

    def text():
        found = caplog.text
        caplog.clear()
        return found

    return text
