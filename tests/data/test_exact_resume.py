"""A run resumed from any of its checkpoints ends where the uninterrupted run ends, to the bit."""

import glob

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import nn

from rigl_lightning.data import InMemoryDataModule, TensorBatches

pytestmark = pytest.mark.filterwarnings("ignore:.*heckpoint directory", "ignore:The dirpath has changed")

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class TinyData(InMemoryDataModule):
    """22 samples in batches of 4: five batches an epoch, two samples left over; noise as augmentation."""

    def __init__(self, batch_size=4, seed=3):
        super().__init__(batch_size, seed)

    def read_splits(self):
        inputs = torch.randn(22, 3, generator=torch.Generator().manual_seed(0))
        self.train_set = self.val_set = self.test_set = TensorBatches(inputs, inputs.sum(1, keepdim=True))

    def augment(self, batch):
        inputs, targets = batch
        return inputs + 0.1 * torch.randn_like(inputs), targets


class TinyModel(pl.LightningModule):
    """Dropout draws from torch's generator; the schedule makes Lightning load the data before it resumes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        torch.rand(1)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class SaveAlsoAtEnds(pl.Callback):
    """Checkpoints where users have them besides steps: after validation and at the end of an epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"validation{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"epoch{trainer.global_step}.ckpt")


def _fit(folder, ckpt_path=None, data=None, **settings):
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = {"max_epochs": 3, "limit_val_batches": 1, "num_sanity_val_steps": 1, **settings}
    trainer = pl.Trainer(callbacks=[SaveAlsoAtEnds(folder), every_step], **QUIET, **settings)
    model = TinyModel()
    torch.seed()  # nothing may depend on the state of the generator before
    trainer.fit(model, data or TinyData(), ckpt_path=ckpt_path)
    return model


def _assert_equal(resumed, whole, name):
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), f"{key} differs after resuming {name}"


@pytest.mark.parametrize(
    ("settings", "n_steps"),
    [
        ({}, 15),
        ({"accumulate_grad_batches": 2}, 9),
        ({"limit_train_batches": 3}, 9),
        ({"val_check_interval": 2}, 15),
        ({"max_steps": 12, "max_epochs": -1}, 12),
        ({"limit_val_batches": 0}, 15),
    ],
)
def test_resuming_any_checkpoint_gives_the_uninterrupted_run_bit_for_bit(tmp_path, settings, n_steps):
    whole = _fit(tmp_path / "whole", **settings)
    paths = sorted(glob.glob(str(tmp_path / "whole" / "*.ckpt")))
    assert sum("/step=" in path for path in paths) == n_steps
    assert len(paths) > n_steps
    for path in paths:
        _assert_equal(_fit(tmp_path / "resumed", path, **settings), whole, path)


def test_a_run_stopped_inside_an_epoch_can_be_extended_bit_for_bit(tmp_path):
    # The schedule spans the whole training; only the data may depend on where the first run stopped.
    class Constant(TinyModel):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    def fit(max_steps, ckpt_path=None):
        model = Constant()
        trainer = pl.Trainer(
            max_steps=max_steps,
            max_epochs=-1,
            enable_checkpointing=False,
            **QUIET,
        )
        trainer.fit(model, TinyData(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{max_steps}.ckpt")
        return model

    whole = fit(13)
    for stop in (3, 5, 8):
        fit(stop)
        _assert_equal(fit(13, tmp_path / f"{stop}.ckpt"), whole, stop)


def test_a_run_that_failed_in_the_middle_of_a_step_resumes_bit_for_bit(tmp_path):
    class Fragile(TinyModel):
        def training_step(self, batch, batch_idx):
            if self.global_step == 7:
                raise RuntimeError("power cut")
            return super().training_step(batch, batch_idx)

    checkpoint = OnExceptionCheckpoint(tmp_path, "failed")
    trainer = pl.Trainer(max_epochs=3, callbacks=[checkpoint], **QUIET)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit(Fragile(), TinyData())
    _assert_equal(_fit(tmp_path / "resumed", tmp_path / "failed.ckpt"), _fit(tmp_path / "whole"), "failed")


def test_another_seed_gives_another_run_and_the_same_seed_the_same(tmp_path):
    runs = [_fit(tmp_path, data=TinyData(seed=seed)) for seed in (3, 3, 4)]
    _assert_equal(runs[1], runs[0], "nothing")
    assert not torch.equal(runs[0].net[0].weight, runs[2].net[0].weight)


def test_a_resumed_run_without_a_seed_takes_the_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    whole = _fit(tmp_path, data=TinyData(seed=None))
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    path = sorted(glob.glob(str(tmp_path / "step=7.ckpt")))[0]
    _assert_equal(_fit(tmp_path / "resumed", path, data=TinyData(seed=None)), whole, path)


@pytest.mark.filterwarnings("error:You're resuming")
def test_lightning_does_not_warn_that_the_data_cannot_resume(tmp_path):
    _fit(tmp_path / "whole")
    _fit(tmp_path / "resumed", tmp_path / "whole" / "step=2.ckpt")


def test_validation_does_not_disturb_training(tmp_path):
    with_validation = _fit(tmp_path / "a")
    without = _fit(tmp_path / "b", limit_val_batches=0)
    _assert_equal(without, with_validation, "nothing")


def test_two_processes_of_batch_2_train_on_what_one_of_batch_4_trains_on(tmp_path):
    class Sorted(TinyData):
        def augment(self, batch):
            return batch

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            step = f"{trainer.current_epoch}-{batch_idx}-{trainer.world_size}-{trainer.global_rank}"
            torch.save(batch[0], tmp_path / f"{step}.pt")

    for devices in (1, 2):
        trainer = pl.Trainer(
            max_epochs=2,
            devices=devices,
            strategy="ddp_fork" if devices > 1 else "auto",
            enable_checkpointing=False,
            **QUIET,
            callbacks=[Recorder()],
        )
        trainer.fit(TinyModel(), Sorted(batch_size=4 // devices))
    for epoch in range(2):
        for batch in range(5):
            one = torch.load(tmp_path / f"{epoch}-{batch}-1-0.pt")
            two = [torch.load(tmp_path / f"{epoch}-{batch}-2-{rank}.pt") for rank in range(2)]
            assert torch.equal(torch.stack(two, dim=1).flatten(0, 1), one)
