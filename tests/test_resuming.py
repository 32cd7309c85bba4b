"""The same command goes on where it stopped: one folder, one file of metrics, one end."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rigl_lightning import SparseTrainingCallback, Static
from rigl_lightning.cli.app import SparseCLI, main
from rigl_lightning.cli.runs import run_summary
from rigl_lightning.trainer.csv_logger import ResumableCSVLogger, read_rows

SETTINGS = """
seed_everything: 0
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 4
  logger: {class_path: rigl_lightning.csv_logger.ResumableCSVLogger, init_args: {save_dir: runs, name: digits}}
  callbacks:
    - class_path: rigl_lightning.SparsityPlot
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_last: true, every_n_train_steps: 5, filename: latest, enable_version_counter: false}
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_last: true, filename: end_of_epoch, save_on_train_epoch_end: true, enable_version_counter: false}
model:
  class_path: rigl_lightning.modules.ImageClassifier
  init_args:
    model: {class_path: rigl_lightning.models.LeNet300100, init_args: {in_features: 64}}
    num_classes: 10
    input_shape: [1, 8, 8]
data: {class_path: rigl_lightning.data.DigitsDataModule, init_args: {batch_size: 100}}
sparse: {algorithm: {class_path: rigl_lightning.RigL, init_args: {schedule: {interval: 3, end: 1.0}}}}
"""
RUNS = Path("runs/digits")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    Path("digits.yaml").write_text(SETTINGS, encoding="utf-8")
    torch.set_num_threads(1)


def fit(*args):
    main(["fit", "--config=digits.yaml", *args])


class PowerCut(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 18:
            raise RuntimeError("power cut")


def break_off(monkeypatch):
    """The same command, but it dies in step 18 of 28."""
    original = SparseCLI.instantiate_trainer

    def fragile(self, **kwargs):
        trainer = original(self, **kwargs)
        trainer.callbacks.append(PowerCut())
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(SparseCLI, "instantiate_trainer", fragile)
        with pytest.raises(RuntimeError, match="power cut"):
            fit("--ckpt_path=last")


def test_the_same_command_begins_goes_on_and_ends_like_an_uninterrupted_one(monkeypatch, caplog):
    fit("--trainer.logger.save_dir=whole")
    break_off(monkeypatch)
    assert "begins now" in caplog.text
    assert "step" in (RUNS / "version_0/metrics.csv").read_text(encoding="utf-8")
    fit("--ckpt_path=last")
    assert [path.name for path in RUNS.iterdir()] == ["version_0"]
    ends = [torch.load(f"{r}/digits/version_0/checkpoints/last.ckpt", weights_only=True) for r in ("runs", "whole")]
    for name, value in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][name], value), name
    resumed, whole = (read_rows(Path(f"{r}/digits/version_0/metrics.csv")) for r in ("runs", "whole"))
    # Training averages of an epoch are of its part since the resume.
    averages = ("train/loss_epoch", "train/accuracy")
    assert [{k: v for k, v in row.items() if k not in averages} for row in resumed] == [
        {k: v for k, v in row.items() if k not in averages} for row in whole
    ]


def test_a_finished_run_keeps_its_files_and_another_command_begins_anew():
    short = ("--ckpt_path=last", "--trainer.max_epochs=1")
    fit(*short)
    before = (RUNS / "version_0/metrics.csv").read_bytes()
    fit(*short)
    assert (RUNS / "version_0/metrics.csv").read_bytes() == before
    assert len(list(RUNS.iterdir())) == 1
    fit(*short, "--sparse.algorithm=Static")
    assert sorted(path.name for path in RUNS.iterdir()) == ["version_0", "version_1"]


def test_the_place_of_checkpoints_may_be_given():
    place = "--trainer.callbacks.init_args.dirpath=kept"
    fit("--ckpt_path=last", place, "--trainer.max_epochs=1")
    fit("--ckpt_path=last", place)  # longer: the place alone decides
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 28


def test_a_logger_without_folders_is_refused(capsys):
    with pytest.raises(SystemExit):
        fit("--ckpt_path=last", "--trainer.logger=false")
    assert "Expected a logger that keeps runs in folders" in capsys.readouterr().err


def test_the_last_line_says_where_everything_is(capsys, caplog):
    fit("--trainer.max_epochs=1")
    line = capsys.readouterr().out.strip().splitlines()[-1]
    for name in ("checkpoints/last.ckpt", "metrics.csv", "sparsity.png"):
        assert f"{RUNS}/version_0/{name}" in line
        assert Path(RUNS, "version_0", name).is_file()
    test = line.split("test it: python -m rigl_lightning ")[1].split()
    main(test)
    assert "test/accuracy" in capsys.readouterr().out
    assert (
        "density 0.1000 (5,020 of 50,200 connections); 0.010 of 0.100 MFLOPs per sample = 0.1000x dense; "
        in caplog.text
    )
    # 4 bytes for each active connection and each of 410 biases, one bit for each connection.
    assert f"{4 * 5_020 + 50_200 / 8 + 4 * 410:,.0f} of {4 * (50_200 + 410):,} bytes" in caplog.text


class TwoOptimizers(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def training_step(self, batch, _):
        for optimizer, part in zip(self.optimizers(), (self.generator, self.critic), strict=True):
            optimizer.zero_grad()
            self.manual_backward(part(batch).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.generator, self.critic)]


def test_the_last_line_tells_the_steps_of_one_optimizer_from_those_of_all():
    sparse = SparseTrainingCallback(Static(0.5), include=["generator"])
    trainer = pl.Trainer(max_epochs=1, callbacks=[sparse], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(TwoOptimizers(), torch.utils.data.DataLoader(torch.ones(6, 4), batch_size=2))
    expected = "Done after 3 steps of the sparse weights (6 steps of 2 optimizers together): no checkpoint"
    assert run_summary(trainer) == expected


def test_a_logger_keeps_what_is_there_and_forgets_what_is_logged_again(tmp_path):
    first = ResumableCSVLogger(tmp_path, "a", version=0)
    for step in range(5):
        first.log_metrics({"x": step}, step)
    first.save()
    second = ResumableCSVLogger(tmp_path, "a", version=0)
    second.log_hyperparams({})
    second.forget_from(3)
    second.log_metrics({"y": 7.0}, 3)
    second.save()
    rows = read_rows(tmp_path / "a" / "version_0" / "metrics.csv")
    assert rows == [*({"x": str(i), "step": str(i)} for i in range(3)), {"y": "7.0", "step": "3"}]


def test_a_logger_goes_on_after_a_line_that_was_torn(tmp_path):
    first = ResumableCSVLogger(tmp_path, "a", version=0)
    for step in range(3):
        first.log_metrics({"x": step}, step)
    first.save()
    file = tmp_path / "a" / "version_0" / "metrics.csv"
    file.write_bytes(file.read_bytes()[:-3])  # of the row "2,2"
    second = ResumableCSVLogger(tmp_path, "a", version=0)
    second.log_metrics({"x": 9}, 2)
    second.save()
    assert [(row["step"], row["x"]) for row in read_rows(file)] == [("0", "0"), ("1", "1"), ("2", "9")]
