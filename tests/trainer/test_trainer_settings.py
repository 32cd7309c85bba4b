"""Settings of the Trainer, interruptions and checkpoints by hand: masks, update steps and resumed runs are the same."""

import copy
import pickle
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import OnExceptionCheckpoint

from rigl_lightning import SET, SNIP, GraSP, RigL, SparseTrainingCallback, Static, UpdateSchedule
from rigl_lightning.sparsity.invariants import violations
from rigl_lightning.sparsity.mask_update import MaskUpdater
from tests.helpers.small_runs import QUIET, SCHEDULE, SmallData, SmallModel, fit

RIGL = RigL(0.7, schedule=SCHEDULE)
WHOLE = (18, [0, 3, 6, 9])
SETTINGS = {
    "value clipping": ({"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, WHOLE),
    "overfit_batches": ({"overfit_batches": 4}, (12, [0, 3, 6, 9])),
    "limit_train_batches": ({"limit_train_batches": 0.5}, (9, [0, 3, 6])),
    "accumulation": ({"accumulate_grad_batches": 2}, (9, [0, 3, 6])),
    "max_steps": ({"max_steps": 7}, (7, [0, 3, 6])),
    "fast_dev_run": ({"fast_dev_run": 4}, (4, [0, 3])),
    "detect_anomaly": ({"detect_anomaly": True}, WHOLE),
    "inference_mode": ({"inference_mode": False, "val_check_interval": 2}, WHOLE),
    "deterministic": ({"deterministic": True}, WHOLE),
    "reload": ({"reload_dataloaders_every_n_epochs": 1}, WHOLE),
    "sanity check": ({"num_sanity_val_steps": 2}, WHOLE),
    "no training": ({"max_steps": 0}, (0, [])),
    "no batches": ({"limit_train_batches": 0}, (0, [])),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_trainer_changes_no_update(name):
    settings, expected = SETTINGS[name]
    _, sparse, watch = fit(RIGL, **settings)  # the watcher checks weights and momenta at each step
    assert (sparse.sparsifier.step, watch.updates) == expected
    assert set(watch.densities) <= {44 / 144}


def test_a_barebones_trainer_trains():
    sparse = SparseTrainingCallback(RIGL)
    trainer = pl.Trainer(barebones=True, accelerator="cpu", max_epochs=3, callbacks=sparse)
    trainer.fit(SmallModel(), SmallData())
    assert sparse.sparsifier.step == 18


@pytest.mark.parametrize("algorithm", [RIGL, SET(0.7, schedule=SCHEDULE)])
def test_value_clipping_bounds_the_gradients_of_the_other_steps(algorithm):
    """At a mask update of RigL there is no gradient, where torch's clipping by value would stop with an error."""

    class Sees(SmallModel):
        largest = 0.0

        def on_before_zero_grad(self, optimizer):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.largest = max([self.largest, *(float(g.abs().max()) for g in gradients)])

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="value")

    model, sparse, watch = fit(algorithm, Sees())
    assert watch.updates == [0, 3, 6, 9]
    assert model.largest == pytest.approx(1e-3)
    assert "_clip_gradients" not in vars(model.trainer.precision_plugin)


def test_a_limit_of_time_that_ends_training_says_that_updates_are_missing():
    class Slow(SmallModel):
        def training_step(self, batch, batch_idx):
            self.trainer.should_stop = self.trainer.global_step >= 4  # as the timer does, without waiting
            return super().training_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="before 2 of the mask updates"):
        fit(RIGL, Slow(), max_time={"hours": 1})


def test_a_schedule_that_ends_after_the_training_is_told_before_it():
    class Untrained(SmallModel):
        def on_train_start(self):
            raise KeyboardInterrupt

    with (
        pytest.warns(UserWarning, match="4 of the 10 mask updates come after the end of the training, at 18 steps"),
        pytest.raises((KeyboardInterrupt, SystemExit)),
    ):
        fit(RigL(0.7, schedule=UpdateSchedule(interval=3, end=30)), Untrained())


def test_a_limit_of_time_alone_needs_a_schedule_in_steps():
    with pytest.raises(ValueError, match="known number of training steps"):
        fit(RigL(0.7), max_epochs=-1, max_time={"seconds": 1})


class Stops(SmallModel):
    """Stops with an error, or by Ctrl-C, before the tenth step."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def training_step(self, batch, batch_idx):
        if self.error is not None and self.trainer.global_step == 9:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_checkpoint_of_an_interrupted_run_goes_on_to_the_same_end(error, tmp_path):
    with pytest.raises((RuntimeError, SystemExit)):
        fit(RIGL, Stops(error()), callbacks=[OnExceptionCheckpoint(tmp_path, "stopped")], enable_checkpointing=True)
    resumed, sparse, watch = fit(RIGL, Stops(), ckpt_path=tmp_path / "stopped.ckpt")
    whole, expected, _ = fit(RIGL, Stops())
    assert watch.updates == [9]
    assert sparse.sparsifier.checksums() == expected.sparsifier.checksums()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_an_interruption_in_the_middle_of_an_update_breaks_no_promise(monkeypatch, tmp_path):
    """One layer has its new mask, the other its old one, and the checkpoint holds a network that trains on."""
    install, installed = MaskUpdater._install, []

    def interrupted(self, *args):
        installed.append(args)
        if len(installed) == 4:  # two layers: the second of the second update
            raise KeyboardInterrupt
        return install(self, *args)

    monkeypatch.setattr(MaskUpdater, "_install", interrupted)
    sparse = SparseTrainingCallback(RIGL, seed=5)
    callbacks = [sparse, OnExceptionCheckpoint(tmp_path, "stopped")]
    with pytest.raises(SystemExit):
        pl.Trainer(callbacks=callbacks, max_epochs=3, **QUIET).fit(SmallModel(), SmallData())
    assert not violations(sparse.sparsifier)
    assert sparse.sparsifier.step == 3
    _, resumed, watch = fit(RIGL, ckpt_path=tmp_path / "stopped.ckpt")
    assert (resumed.sparsifier.step, watch.updates) == (18, [3, 6, 9])


def test_a_checkpoint_saved_by_hand_in_mid_epoch_goes_on_exactly_and_weights_alone_are_refused(tmp_path):
    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 8:
                trainer.save_checkpoint(tmp_path / "whole.ckpt")
                trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

    whole, sparse, _ = fit(RIGL, callbacks=[Saves()])
    resumed, again, _ = fit(RIGL, ckpt_path=tmp_path / "whole.ckpt")
    assert again.sparsifier.checksums() == sparse.sparsifier.checksums()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    weights = torch.load(tmp_path / "weights.ckpt", weights_only=True)
    assert int((weights["state_dict"]["net.0.weight"] != 0).sum()) <= 24
    with pytest.raises(KeyError, match="contains only the model"):  # Lightning's own words
        fit(RIGL, ckpt_path=tmp_path / "weights.ckpt")


def test_values_of_the_last_update_survive_a_resume(tmp_path):
    """After it there is no other update that would renew them."""

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 14:
                trainer.save_checkpoint(tmp_path / "late.ckpt")

    whole, sparse, _ = fit(RIGL, callbacks=[Saves()])
    resumed, again, _ = fit(RIGL, ckpt_path=tmp_path / "late.ckpt")
    assert again.metrics() == sparse.metrics()
    assert again.metrics()["sparse/churn"] > 0
    expected, got = ({**model.trainer.callback_metrics} for model in (whole, resumed))
    assert expected["sparse/churn"] == got["sparse/churn"]


def test_testing_and_validating_between_two_fits_moves_nothing(tmp_path):
    class Tests(SmallModel):
        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

    sparse = SparseTrainingCallback(RIGL, seed=5)
    last = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    trainer = pl.Trainer(callbacks=[sparse, last], max_epochs=1, **QUIET)
    model = Tests()
    trainer.fit(model, SmallData())
    before = sparse.sparsifier.checksums()
    trainer.test(model, SmallData(), verbose=False)
    assert trainer.callback_metrics["sparse/density"] == pytest.approx(44 / 144)
    trainer.validate(model, SmallData(), ckpt_path="best", verbose=False)
    assert trainer.callback_metrics["sparse/size_bytes"] > 0
    assert trainer.callback_metrics["sparse/density"] == pytest.approx(44 / 144)
    trainer.test(model, SmallData(), ckpt_path="last", verbose=False)
    assert (sparse.sparsifier.step, sparse.sparsifier.checksums()) == (6, before)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, SmallData(), ckpt_path="last")
    assert sparse.sparsifier.step == 18
    whole, expected, _ = fit(RIGL, Tests())
    assert sparse.sparsifier.checksums() == expected.sparsifier.checksums()


def test_the_callback_can_be_copied_and_pickled_before_and_after_fit():
    sparse = SparseTrainingCallback(RIGL, seed=5)
    pickle.loads(pickle.dumps(sparse))
    pl.Trainer(callbacks=copy.deepcopy(sparse), max_epochs=1, enable_checkpointing=False, **QUIET)
    _, fitted, _ = fit(RIGL, max_epochs=1)
    for twin in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert twin.sparsifier.checksums() == fitted.sparsifier.checksums()


class PickleTheTrainer(pl.Callback):
    """What data workers that are spawned do with a bound ``collate_fn``: the data module holds the Trainer."""

    def __init__(self):
        self.twins = []

    def on_train_batch_end(self, trainer, *_):
        if not self.twins:
            plain = copy.copy(trainer.strategy.precision_plugin)
            self.twins = [pickle.loads(pickle.dumps(part)) for part in (trainer.callbacks[:2], plain)]
            self.twins.append(copy.deepcopy(trainer.callbacks[1]))


@pytest.mark.parametrize("compute", ["dense", "sparse"])
def test_the_callback_the_finders_and_the_clipping_can_be_pickled_during_fit(compute):
    finder = pl.callbacks.LearningRateFinder(num_training_steps=3)
    sparse, watch = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), compute=compute), PickleTheTrainer()
    trainer = pl.Trainer(callbacks=[finder, sparse, watch], max_epochs=1, enable_checkpointing=False, **QUIET)
    model = SmallModel()
    model.lr = 0.1
    trainer.fit(model, SmallData())
    (_, twin), _, copied = watch.twins
    for other in (twin, copied):
        assert other.optimizer is None
        assert other.sparsifier.masks.keys() == sparse.sparsifier.masks.keys()
        assert other.metrics().keys() == sparse.metrics().keys()
    assert sparse.sparsifier.step == 6


def test_clipping_of_ones_own_passes_over_the_steps_of_mask_updates():
    class Clipping(SmallModel):
        clipped = 0

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            torch.nn.utils.clip_grad_value_(self.parameters(), 0.01)
            self.clipped += 1

    model, sparse, _ = fit(RigL(0.7, schedule=SCHEDULE), Clipping(), max_epochs=1)
    assert (sparse.sparsifier.step, model.clipped) == (6, 4)  # updates at 0 and 3


def test_a_hook_that_reads_gradients_at_an_update_is_told_that_there_are_none():
    class Reading(SmallModel):
        def on_before_optimizer_step(self, optimizer):
            max(p.grad.abs().max() for p in self.parameters())

    told = r"AttributeError in the step of a mask update \(step 0\).*p.grad is not None"
    with pytest.warns(UserWarning, match=told) as caught, pytest.raises(AttributeError):
        fit(RigL(0.7, schedule=SCHEDULE), Reading(), max_epochs=1)
    assert not any("SGD" in str(w.message) for w in caught)  # the optimizer has nothing to do with it


def test_a_single_update_that_never_came_is_told_at_the_end():
    class Overflowing(SmallModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("inf") if self.global_step == 0 else 1)

    with pytest.warns(UserWarning, match=r"SNIP has made none of its mask updates \(at step 0\).*not finite"):
        fit(SNIP(0.7), Overflowing(), max_epochs=1)


class Diverges(SmallModel):
    """The loss is NaN from a step on."""

    def __init__(self, since, **settings):
        super().__init__(**settings)
        self.since = since

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (torch.nan if self.global_step >= self.since else 1.0)


def said_of_a_loss(model, algorithm=RIGL, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(algorithm, model, **settings)
    return [str(w.message) for w in caught if str(w.message).startswith("The loss")]


@pytest.mark.parametrize("algorithm", [RIGL, Static(0.7)], ids=["rigl", "static"])
def test_a_loss_that_is_not_finite_is_told_once_with_its_step(algorithm):
    (told,) = said_of_a_loss(Diverges(4), algorithm, max_epochs=2)
    assert told.startswith("The loss is nan at step 4 (4 optimizer steps completed). ")


@pytest.mark.parametrize("algorithm", [SNIP(0.7), GraSP(0.7)], ids=["snip", "grasp"])
def test_a_training_that_diverges_at_once_says_that_its_only_update_never_came(algorithm):
    name = type(algorithm).__name__
    with pytest.warns(UserWarning, match=rf"{name} has made none of its mask updates \(at step 0\).*not finite"):
        fit(algorithm, Diverges(0), max_epochs=1)


def test_without_masks_a_spawned_fit_is_named():
    with pytest.raises(RuntimeError, match=r"ddp_spawn.*trainer.callback_metrics"):
        SparseTrainingCallback(RigL(0.7)).metrics()


def test_the_same_callback_twice_is_refused():
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `SparseTrainingCallback`"):
        pl.Trainer(callbacks=[SparseTrainingCallback(RIGL), SparseTrainingCallback(RIGL)], **QUIET)


def test_a_fit_after_the_last_update_says_that_masks_stay():
    sparse = SparseTrainingCallback(RigL(0.7, schedule=UpdateSchedule(interval=2, end=0.5)), seed=5)
    model = SmallModel()
    for epochs in (1, 3):
        trainer = pl.Trainer(callbacks=sparse, max_epochs=epochs, enable_checkpointing=False, **QUIET)
        if epochs == 1:
            trainer.fit(model, SmallData())
        else:
            with pytest.warns(UserWarning, match="masks stay as they are.*step 6.*at 2.*new callback"):
                trainer.fit(model, SmallData())
