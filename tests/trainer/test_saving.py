"""A process that is killed while it saves loses no more than the work since the checkpoint before."""

import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.plugins.io import TorchCheckpointIO

from rigl_lightning import AtomicCheckpointIO, RigL, SparseTrainingCallback
from rigl_lightning.cli.app import SparseCLI
from rigl_lightning.trainer import checkpoint_io as module
from tests.helpers.process_groups import GLOBAL_BATCH, ImageModel, Images, run_in_world, world_size
from tests.helpers.small_runs import QUIET, SCHEDULE, SmallData, SmallModel, everything

pytestmark = pytest.mark.filterwarnings("ignore:.*heckpoint directory", "ignore:The dirpath has changed")
RIGL = RigL(0.7, schedule=SCHEDULE)


def train(folder=None, plugin=None, ckpt_path=None):
    """Keeps one file, written over at every third step."""
    sparse = SparseTrainingCallback(RIGL, seed=5)
    same_file = ModelCheckpoint(folder, "only", every_n_train_steps=3, enable_version_counter=False)
    callbacks = [sparse] if folder is None else [sparse, same_file]
    settings = {"max_epochs": 3, **QUIET, "enable_checkpointing": folder is not None}
    trainer = pl.Trainer(callbacks=callbacks, plugins=plugin, **settings)
    model = SmallModel()
    trainer.fit(model, SmallData(), ckpt_path=ckpt_path)
    return model, sparse


def killed(work, *args):
    """Run ``work`` in a process of its own and return the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work(*args)
        finally:
            os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train_until_killed(folder, at, plugin):
    """Dies in the third save: after half of the file's bytes, or after all and before the file has its name."""
    saves = []

    def torn_save(content, file):
        saves.append(content["global_step"])
        whole_save(content, file)
        if len(saves) == 3 and at == "in the middle of the file":
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def no_rename(*paths):
        if len(saves) == 3 and at == "before the file has its name":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*paths)

    whole_save, rename = torch.save, os.replace
    torch.save, os.replace = torn_save, no_rename
    train(folder, plugin)


@pytest.mark.parametrize("at", ["in the middle of the file", "before the file has its name"])
def test_a_kill_during_a_save_leaves_the_checkpoint_before_it(tmp_path, at):
    assert killed(train_until_killed, tmp_path, at, AtomicCheckpointIO()) == signal.SIGKILL
    checkpoint = torch.load(tmp_path / "only.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["only.ckpt"]
    expected = everything(*train())
    model, sparse = train(tmp_path, AtomicCheckpointIO(), ckpt_path=tmp_path / "only.ckpt")
    got = everything(model, sparse)
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["only.ckpt"]  # the leftover was written over


def copy_until_killed(folder):
    """Lightning's own way where temporary files are on another file system, so that moving a file is copying it."""
    import shutil

    copies = []

    def torn_move(source, target):
        copies.append(target)
        content = Path(source).read_bytes()
        with open(target, "wb") as file:
            file.write(content if len(copies) < 3 else content[: len(content) // 2])
        if len(copies) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    shutil.move = torn_move
    train(folder, TorchCheckpointIO())


def test_without_the_plugin_a_kill_can_leave_nothing_to_resume_from(tmp_path):
    """The reason for the plugin; if Lightning mends this, it can go."""
    assert killed(copy_until_killed, tmp_path) == signal.SIGKILL
    with pytest.raises((RuntimeError, OSError)):
        torch.load(tmp_path / "only.ckpt", weights_only=True)


def test_a_save_that_fails_leaves_the_checkpoint_before_it_and_no_rest(tmp_path):
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint({"step": 1}, tmp_path / "folder" / "a.ckpt")
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        plugin.save_checkpoint({"step": lambda: 2}, tmp_path / "folder" / "a.ckpt")
    assert plugin.load_checkpoint(tmp_path / "folder" / "a.ckpt") == {"step": 1}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.ckpt"]


def test_a_checkpoint_replaces_a_link_and_not_what_it_points_to(tmp_path):
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint({"step": 1}, tmp_path / "best.ckpt")
    (tmp_path / "last.ckpt").symlink_to("best.ckpt")
    plugin.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert [torch.load(tmp_path / f"{name}.ckpt")["step"] for name in ("best", "last")] == [1, 2]


def fit_in_world(folder, ckpt_path=None):
    size = world_size()
    sparse = SparseTrainingCallback(RIGL, seed=5)
    every_fourth = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
    strategy = "ddp" if size > 1 else "auto"
    settings = {**QUIET, "max_epochs": 3, "devices": size, "strategy": strategy}
    trainer = pl.Trainer(callbacks=[sparse, every_fourth], plugins=AtomicCheckpointIO(), **settings)
    model = ImageModel()
    trainer.fit(model, Images(GLOBAL_BATCH // size, seed=1), ckpt_path=ckpt_path)
    return model, sparse


def test_a_checkpoint_of_two_processes_goes_on_on_one_in_mid_epoch(tmp_path):
    run_in_world(2, fit_in_world, tmp_path)
    two = torch.load(tmp_path / "step=8.ckpt", weights_only=True)
    plain = ImageModel()
    plain.load_state_dict(two["state_dict"], strict=True)
    model, sparse = fit_in_world(tmp_path / "resumed", tmp_path / "step=8.ckpt")
    whole, whole_sparse = fit_in_world(tmp_path / "whole")
    assert sparse.sparsifier.step == 18
    assert sparse.sparsifier.checksums() == whole_sparse.sparsifier.checksums()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-6)


class OwnIO(TorchCheckpointIO):
    """A user's."""


@pytest.mark.parametrize(("given", "expected"), [([], AtomicCheckpointIO), ([OwnIO()], OwnIO)])
def test_the_command_line_saves_whole_files_unless_told_how_to_save(given, expected):
    trainer = pl.Trainer(plugins=given, **QUIET)
    module.write_whole_files(trainer)
    assert type(trainer.strategy.checkpoint_io) is expected


def test_the_trainer_of_the_command_line_saves_whole_files(monkeypatch):
    seen = []
    monkeypatch.setattr("rigl_lightning.cli.app.write_whole_files", seen.append)
    monkeypatch.setattr(SparseCLI, "_length", lambda self: {})
    monkeypatch.setattr(LightningCLI, "instantiate_trainer", lambda self: pl.Trainer(**QUIET))
    trainer = SparseCLI.__new__(SparseCLI).instantiate_trainer()
    assert seen == [trainer]
