"""What others do to the network, the optimizer or the weights around the masks is refused, followed or said."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint, ModelPruning
from torch import nn

from rigl_lightning import DNW, SNIP, FixedMasks, GradualMagnitudePruning, RigL, Static, UpdateSchedule
from tests.helpers.small_runs import SCHEDULE, SmallModel, fit

RIGL = RigL(0.7, schedule=SCHEDULE)


class AtEpoch(pl.Callback):
    """Calls ``act(trainer, module)`` when the second epoch starts."""

    def __init__(self, act):
        self.act = act

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.act(trainer, pl_module)


def new_head(trainer, model):
    model.net[3] = nn.Linear(16, 3)
    trainer.optimizers[0].add_param_group({"params": list(model.net[3].parameters())})


def test_a_replaced_layer_is_an_error_that_names_it():
    with pytest.raises(RuntimeError, match=r"'net.3.weight' has been replaced.*`exclude`"):
        fit(RIGL, callbacks=[AtEpoch(new_head)])


def test_new_optimizers_in_the_middle_of_fit_are_followed():
    _, sparse, watch = fit(RIGL, callbacks=[AtEpoch(lambda trainer, _: trainer.strategy.setup_optimizers(trainer))])
    assert (sparse.sparsifier.step, watch.updates) == (18, [0, 3, 6, 9])


def unfreeze(trainer, model):
    model.net[0].requires_grad_(True)


def test_weights_that_begin_to_train_are_said_to_be_dense():
    model = SmallModel()
    model.net[0].requires_grad_(False)
    with pytest.warns(
        UserWarning, match=r"trained now and stay dense: 'net.0.weight' has no mask.*`exclude`"
    ) as caught:
        _, sparse, _ = fit(Static(0.7), model, callbacks=[AtEpoch(unfreeze)])
    assert list(sparse.sparsifier.masks) == ["net.3.weight"]
    assert len([w for w in caught if "stay dense" in str(w.message)]) == 1


def test_a_finetuning_callback_is_warned_of_before_training():
    class Pretrained(SmallModel):
        def __init__(self):
            super().__init__()
            self.backbone = self.net[0]

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    with pytest.warns(UserWarning, match="finetuning callback will unfreeze.*has no mask"):
        fit(Static(0.7), Pretrained(), callbacks=[BackboneFinetuning(1)], max_steps=1)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
@pytest.mark.parametrize("algorithm", [RIGL, GradualMagnitudePruning(0.7, schedule=SCHEDULE)])
def test_weights_that_the_module_loads_between_steps_are_sparse_in_the_next_forward_pass(hook, algorithm):
    pretrained, seen = SmallModel().state_dict(), []

    class LoadsLate(SmallModel):
        def training_step(self, batch, batch_idx):
            masks = self.trainer.callbacks[0].sparsifier.masks
            seen.extend(
                int(weight[~masks[name]].count_nonzero()) for name, weight in self.named_parameters() if name in masks
            )
            return super().training_step(batch, batch_idx)

    model = LoadsLate()
    setattr(model, hook, lambda: model.load_state_dict(pretrained))
    fit(algorithm, model)
    assert set(seen) == {0}


def test_lightnings_own_pruning_is_refused():
    with pytest.raises(ValueError, match="got Lightning's ModelPruning.*Remove one"):
        fit(RIGL, callbacks=[ModelPruning("l1_unstructured", amount=0.5)])


def messages(algorithm, model=None, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(algorithm, model, max_steps=1, **settings)
    return [str(w.message) for w in caught]


def test_new_masks_on_a_network_that_was_trained_sparse_are_warned_of(tmp_path):
    trained, _, _ = fit(RIGL, max_epochs=1)
    trained.trainer.save_checkpoint(tmp_path / "sparse.ckpt")

    def load():
        model = SmallModel()
        model.load_state_dict(torch.load(tmp_path / "sparse.ckpt", weights_only=True)["state_dict"])
        return model

    weights = torch.cat([weight.flatten() for weight in load().parameters() if weight.ndim == 2])
    zero = float((weights == 0).float().mean())  # the inactive ones, and an active one whose gradient was always zero
    assert 0.694 < zero < 0.72
    (warning,) = [m for m in messages(Static(0.7), load()) if "sparse before it got its masks" in m]
    assert f"{zero:.1%} of its weights were zero" in warning
    assert "FixedMasks" in warning
    for algorithm in (FixedMasks(str(tmp_path / "sparse.ckpt")), SNIP(0.7), DNW(0.7)):  # nothing is lost at first
        assert not [m for m in messages(algorithm, load()) if "sparse before" in m]
    assert not [m for m in messages(Static(0.7)) if "sparse before" in m]


def zeros_at_the_head():
    model = SmallModel()
    nn.init.zeros_(model.net[3].weight)
    return model


def test_a_layer_that_starts_at_zero_is_no_trained_one():
    assert not [m for m in messages(Static(0.7), zeros_at_the_head()) if "sparse before" in m]


PRUNING = GradualMagnitudePruning(0.7, schedule=UpdateSchedule(interval=2, begin=2, end=14))


@pytest.mark.parametrize(
    ("algorithm", "monitor", "expected"),
    [(PRUNING, "val/loss", 1), (PRUNING, None, 0), (RIGL, "val/loss", 0), (SNIP(0.7), "val/loss", 0)],
)
def test_a_best_checkpoint_from_before_the_network_was_sparse_is_warned_of(algorithm, monitor, expected, tmp_path):
    keeps = ModelCheckpoint(tmp_path, monitor=monitor)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(algorithm, callbacks=[keeps], enable_checkpointing=True)
    found = [str(w.message) for w in caught if "keeps the best checkpoint" in str(w.message)]
    assert len(found) == expected
    assert all("'val/loss'" in m and "step 14" in m for m in found)
