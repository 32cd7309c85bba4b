"""A training that carries its GRU's state goes on exactly where it stopped, on one process and on two."""

import os

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from rigl_lightning import RigL, SparseTrainingCallback
from rigl_lightning.data import TextBytesDataModule
from rigl_lightning.models import CharGRU
from rigl_lightning.modules import CharLanguageModel
from tests.helpers.process_groups import run_in_world, world_size
from tests.helpers.small_runs import QUIET, SCHEDULE

STOPPED_AT, N_STEPS = 5, 8


def fit(root, checkpoints, resume=None):
    size, rank = world_size(), int(os.environ.get("LOCAL_RANK", 0))
    pl.seed_everything(0)
    module = CharLanguageModel(CharGRU(256, 8, 16, (8,)), carry_state=True)
    data = TextBytesDataModule(root, sequence_length=4, batch_size=2, consecutive=True, seed=1)
    saving = ModelCheckpoint(checkpoints, f"{size}-{{step}}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        callbacks=[SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), seed=5), saving],
        devices=size,
        strategy="ddp" if size > 1 else "auto",
        **{**QUIET, "max_epochs": 1, "max_steps": N_STEPS},
    )
    trainer.fit(module, data, ckpt_path=resume)
    result = {"weights": module.state_dict(), "carried": module._carried}
    torch.save(result, checkpoints / f"{size}-{rank}-result.pt")


def stop_and_resume(root, folder):
    fit(root, folder / "whole")
    fit(root, folder / "resumed", folder / "whole" / f"{world_size()}-step={STOPPED_AT}.ckpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried")
    for part in ("train", "valid", "test"):
        (folder / f"{part}.txt").write_bytes(bytes(97 + i * i % 26 for i in range(600)))
    stop_and_resume(folder, folder)
    run_in_world(2, stop_and_resume, folder, folder)
    return folder


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_training_equals_an_uninterrupted_one(folder, size, rank):
    whole, resumed = (torch.load(folder / kind / f"{size}-{rank}-result.pt") for kind in ("whole", "resumed"))
    assert torch.equal(whole["carried"], resumed["carried"])
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name


def test_each_process_has_a_state_of_its_own(folder):
    first, second = (torch.load(folder / "whole" / f"2-{rank}-result.pt")["carried"] for rank in (0, 1))
    assert not torch.equal(first, second)
    kept = torch.load(folder / "whole" / f"2-step={N_STEPS}.ckpt")["carried_states"]
    assert torch.equal(kept, torch.stack([first, second]))


def test_another_number_of_processes_begins_with_a_fresh_state(folder):
    module = CharLanguageModel(CharGRU(256, 8, 16, (8,)), carry_state=True)
    module.on_load_checkpoint(torch.load(folder / "whole" / f"2-step={STOPPED_AT}.ckpt"))
    assert module._carried is None
