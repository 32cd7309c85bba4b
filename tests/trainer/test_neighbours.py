"""Other callbacks, other stages and other ways of stepping do not break what the masks promise."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch.nn import functional as F

from rigl_lightning import (
    DNW,
    SNIP,
    DeepR,
    GradualMagnitudePruning,
    RigL,
    SparseTrainingCallback,
    Static,
    UpdateSchedule,
)
from rigl_lightning.sparsity.algorithms import describe
from tests.helpers.small_runs import PLAIN_SWA_STATE, QUIET, SCHEDULE, SmallData, SmallModel, fit


def function_modes():
    return torch._C._len_torch_function_stack()


def density_of(state, masks):
    kept = sum(int((state[name] != 0).sum()) for name in masks)
    return kept / sum(mask.numel() for mask in masks.values())


def read(path):
    """Weights of a checkpoint, which holds plain values only where torch itself saves nothing else."""
    return torch.load(path, weights_only=PLAIN_SWA_STATE)["state_dict"]


def averages():
    found = {"swa": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)}
    if hasattr(pl.callbacks, "EMAWeightAveraging"):
        found["ema"] = lambda: pl.callbacks.EMAWeightAveraging(decay=0.9)
    return found


class SeesValidation(SmallModel):
    def on_validation_start(self):
        masks = self.trainer.callbacks[0].sparsifier.masks
        self.validated = density_of(self.state_dict(), masks)


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 4}], ids=["", "validated within the epoch"])
@pytest.mark.parametrize("algorithm", [RigL(0.7, schedule=SCHEDULE), DNW(0.7), DeepR(0.7, l1=0.01)], ids=describe)
@pytest.mark.parametrize("name", averages())
def test_averaged_weights_are_as_sparse_as_the_masks(name, algorithm, settings, tmp_path):
    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / "middle.ckpt")
            sparsifier = trainer.callbacks[0].sparsifier
            state = read(tmp_path / "middle.ckpt")
            assert not any(state[layer][~mask].any() for layer, mask in sparsifier.masks.items())

        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    callbacks = [averages()[name](), Saves()]
    model, sparse, _ = fit(algorithm, SeesValidation(), callbacks=callbacks, log_every_n_steps=5, **settings)
    masks = sparse.sparsifier.masks
    assert model.validated <= 44 / 144
    assert density_of(model.state_dict(), masks) <= 44 / 144
    for layer, mask in masks.items():
        assert not model.state_dict()[layer][~mask].any()
    saved = read(tmp_path / "end.ckpt")
    assert density_of(saved, masks) <= 44 / 144


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_checkpoint_that_was_only_evaluated_does_not_enter_the_next_fit(stage, tmp_path):
    class Tests(SmallModel):
        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

    model, _, _ = fit(Static(0.7), Tests(), max_epochs=1)
    model.trainer.save_checkpoint(tmp_path / "other.ckpt")
    sparse = SparseTrainingCallback(Static(0.7), seed=99)
    trainer = pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET)
    getattr(trainer, stage)(Tests(), SmallData(), ckpt_path=tmp_path / "other.ckpt")
    trainer.fit(Tests(), SmallData())
    assert (sparse.sparsifier.seed, sparse.sparsifier.step) == (99, 6)


def test_flop_counting_leaves_no_mode_behind_whatever_the_first_batches_do():
    class NoLoss(SmallModel):
        def training_step(self, batch, batch_idx):
            return None if batch_idx < 3 else super().training_step(batch, batch_idx)

    class Fails(SmallModel):
        def training_step(self, batch, batch_idx):
            self.net[0](batch[0])
            raise RuntimeError("boom")

    before = function_modes()
    _, sparse, _ = fit(Static(0.7), NoLoss())
    assert sparse.metrics()["sparse/inference_flops"] == pytest.approx(44 / 144)
    assert function_modes() == before
    sparse = SparseTrainingCallback(Static(0.7))
    trainer = pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(Fails(), SmallData())
    assert function_modes() == before
    assert not sparse.flops.dense


def test_flops_of_all_networks_of_a_manual_step_are_counted():
    class Two(SmallModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.net[0](batch[0]).square().mean())
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    _, sparse, _ = fit(Static(0.7), Two())
    assert sparse.flops.dense == {"net.0.weight": 2 * (2 * 96 * 4), "net.3.weight": 2 * 48 * 4}


def test_stepping_past_the_callback_is_an_error_not_a_leak():
    class Raw(SmallModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    with pytest.raises(RuntimeError, match="`before_step` before every optimizer.step.*use_pl_optimizer"):
        fit(Static(0.7), Raw())


def test_two_callbacks_on_one_optimizer_are_refused():
    callbacks = [SparseTrainingCallback(Static(0.7), include=[f"net.{i}"], name=f"layer{i}") for i in (0, 3)]
    trainer = pl.Trainer(callbacks=callbacks, max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="an optimizer of its own"):
        trainer.fit(SmallModel(), SmallData())


def test_a_named_callback_logs_under_its_name():
    sparse = SparseTrainingCallback(Static(0.7), name="generator")
    pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET).fit(SmallModel(), SmallData())
    keys = ("density", "churn", "drop_fraction", "blind_growth", "exploration", "survival", "hamming_distance")
    keys += ("dead_units", "train_flops", "inference_flops")
    assert set(sparse.metrics()) == {f"sparse/generator/{key}" for key in keys}


def test_changing_accumulation_needs_a_schedule_in_steps():
    accumulation = GradientAccumulationScheduler({0: 1, 1: 6})
    with pytest.raises(ValueError, match="known number of training steps.*as whole steps"):
        fit(GradualMagnitudePruning(0.7), callbacks=[accumulation])
    ramp = UpdateSchedule(interval=2, begin=1, end=6)
    _, sparse, _ = fit(GradualMagnitudePruning(0.7, schedule=ramp), callbacks=[accumulation])
    assert sparse.sparsifier.step == 6 + 1 + 1


def test_a_training_that_ends_early_says_that_updates_are_missing():
    with pytest.warns(UserWarning, match="ended after 5 steps, before 3 of the mask updates .* until step 12"):
        fit(
            RigL(0.7, schedule=UpdateSchedule(interval=3, end=15)),
            callbacks=[StopAtStep(5)],
        )


class StopAtStep(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


@pytest.mark.parametrize(
    "algorithm", [SNIP(0.7), GradualMagnitudePruning(0.7, schedule=UpdateSchedule(interval=1, begin=1, end=4))]
)
def test_a_dense_checkpoint_past_all_updates_is_refused_before_the_first_batch(algorithm, tmp_path):
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(SmallModel(), SmallData())
    trainer.save_checkpoint(tmp_path / "dense.ckpt")
    with pytest.raises(ValueError, match="mask updates after step 6"):
        fit(algorithm, ckpt_path=tmp_path / "dense.ckpt")


@pytest.mark.parametrize("wrap", [list, tuple, lambda t: {"x": t[0]}], ids=["list", "tuple", "dict"])
def test_flops_are_counted_on_any_form_of_example_input(wrap):
    model = SmallModel()
    model.example_input_array = wrap([torch.zeros(2, 6)])
    _, sparse, _ = fit(Static(0.7), model)
    assert sparse.flops.dense == {"net.0.weight": 2 * 96, "net.3.weight": 2 * 48}


def test_dense_weights_loaded_between_two_fits_are_masked_before_anything_sees_them():
    model, sparse, _ = fit(Static(0.7), SeesValidation())
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    trainer = pl.Trainer(
        callbacks=sparse, max_epochs=1, enable_checkpointing=False, **{**QUIET, "num_sanity_val_steps": 1}
    )
    seen = []
    model.on_validation_start = lambda: seen.append(density_of(model.state_dict(), sparse.sparsifier.masks))
    trainer.fit(model, SmallData())
    assert seen[0] == 44 / 144


def test_an_algorithm_class_instead_of_an_algorithm_is_explained():
    with pytest.raises(ValueError, match=r"one such as RigL\(sparsity=0.9\)"):
        SparseTrainingCallback(RigL)


def wrong_shape(c):
    return torch.ones(3)


def wrong_type(c):
    return c.mask


@pytest.mark.parametrize("score", [wrong_shape, wrong_type])
def test_a_score_that_is_not_of_the_weights_shape_is_named(score):
    with pytest.raises(ValueError, match=f"score '{score.__name__}' to return numbers of the weight's shape"):
        fit(RigL(0.7, schedule=SCHEDULE, grow_score=score))
