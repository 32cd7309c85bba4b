"""Runs of the command line that are resumed in a new process end as if they had never stopped, to the bit."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rigl_lightning.cli import main

ROOT = Path(__file__).parents[1]

CONFIG = """
seed_everything: 3
trainer:
  max_epochs: 3
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  logger:
    class_path: pytorch_lightning.loggers.CSVLogger
    init_args: {save_dir: runs, name: digits}
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_top_k: -1, every_n_train_steps: 1, filename: "{step}", auto_insert_metric_name: false}
model:
  class_path: mine.SmallClassifier
data:
  class_path: rigl_lightning.data.DigitsDataModule
  init_args: {batch_size: 200}
"""

MODULE = """
import torch
from torch import nn

from rigl_lightning.modules import ImageClassifier


class SmallClassifier(ImageClassifier):
    def __init__(self, optimizer: str = "sgd"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 10))
        super().__init__(network, 10, (1, 8, 8))
        self.optimizer = optimizer

    def configure_optimizers(self):
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=1e-4)
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
"""

SCHEDULED = {"schedule.interval": 4, "schedule.end": 18}
# Of 21 steps in 3 epochs of 7: in the middle of an interval, at an update, and at the end of an epoch.
STOPS = (6, 8, 14)
OPTIMIZERS = ("sgd", "adam")
ALGORITHMS = {
    "RigL": SCHEDULED,
    "SET": SCHEDULED,
    "SNFS": SCHEDULED,
    "SNIP": {},
    "GraSP": {},
    "GraNet": {"initial_sparsity": 0.5, **SCHEDULED, "ramp_end": 16},
    "DSR": {**SCHEDULED, "target_fraction": 0.1},
    "DeepR": {"l1": 0.001, "temperature": 0.0001},
    "DNW": {},
    "TopKAST": {"backward_sparsity": 0.6, "renewal.interval": 4},
    "MEST": SCHEDULED,
    "CHTs": SCHEDULED,
    "ACDC": {"warm_up": 2, "phase": 3, "last": 16},
    "AnnealedTopK": {},
    "SRSTE": {"structure": "Unstructured"},
    "GradualMagnitudePruning": {"ramp.interval": 4, "ramp.begin": 2, "ramp.end": 16},
    "OneShotMagnitude": {"at": 10},
    "Static": {},
}
RESUMED = "runs/digits/version_{}"


def arguments(algorithm, optimizer):
    settings = {"sparsity": 0.8, **ALGORITHMS[algorithm]}
    flags = [part for key, value in settings.items() for part in (f"--sparse.algorithm.{key}", str(value))]
    # Said here, since what `make test-sparse` forces on a test reaches no other process.
    compute = os.environ.get("RIGL_LIGHTNING_TEST_COMPUTE", "auto")
    flags += ["--sparse.compute", compute]
    return ["fit", "--config", "run.yaml", "--model.optimizer", optimizer, "--sparse.algorithm", algorithm, *flags]


def in_a_new_process(*args):
    """What a user types, in a fresh interpreter whose random state and hashes are its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "random", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rigl_lightning", *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


def rows(version):
    """Logged values by step and name; the later of two of one step."""
    with open(f"{RESUMED.format(version)}/metrics.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return {(int(row["step"]), key): value for row in table for key, value in row.items() if value and key != "step"}


def checkpoint(version, step):
    return Path(f"{RESUMED.format(version)}/checkpoints/{step}.ckpt")


def differences(one, other, path=""):
    """Paths of nested dictionaries and lists at which the two differ by a bit."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: keys"]
        return [d for key in one for d in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path}: length"]
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{path}/{i}")]
    same = torch.equal(one, other) if torch.is_tensor(one) else one == other
    return [] if same else [path]


def assert_same_end(stop):
    """Weights, masks, optimizer state and logged values of run 0 and of its continuation."""
    whole, resumed = (torch.load(checkpoint(v, 21), weights_only=True) for v in (0, 1))
    for part in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert not differences(whole[part], resumed[part], part)
    assert not differences(*(c["callbacks"]["SparseTrainingCallback"] for c in (whole, resumed)))
    expected, got = rows(0), rows(1)
    assert got
    # Lightning saves no unfinished means: those of the epoch in which the run stopped are of the batches since.
    unfinished = {(stop - stop % 7 + 6, name) for name in ("train/loss_epoch", "train/accuracy") if stop % 7}
    wrong = {key for key, value in got.items() if expected[key] != value}
    assert wrong <= unfinished


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("run.yaml").write_text(CONFIG, encoding="utf-8")
    Path("mine.py").write_text(MODULE, encoding="utf-8")
    torch.set_num_threads(1)


def train_and_resume(algorithm, optimizer, stop):
    main(arguments(algorithm, optimizer))
    in_a_new_process(*arguments(algorithm, optimizer), "--ckpt_path", str(checkpoint(0, stop)))
    assert_same_end(stop)


@pytest.mark.slow
def test_a_run_resumed_in_a_new_process_ends_bit_for_bit_as_the_uninterrupted_one(folder):
    train_and_resume("RigL", "adam", STOPS[0])


LATE = """
import os
import pathlib
import time

from rigl_lightning import SparsityPlot

if os.environ.get("LOCAL_RANK") == "1":  # looks for the configuration after the first process has written it
    exists = pathlib.Path.exists

    def late(path, **kwargs):
        time.sleep(2 if path.name == "config.yaml" else 0)
        return exists(path, **kwargs)

    pathlib.Path.exists = late


class NotingPlot(SparsityPlot):
    def on_train_end(self, trainer, pl_module):
        self.rank = trainer.global_rank
        super().on_train_end(trainer, pl_module)
        pathlib.Path(f"ended-{self.rank}").touch()

    def draw(self, sparsifier):
        pathlib.Path(f"drawn-{self.rank}").touch()
        return super().draw(sparsifier)
"""


@pytest.mark.slow_matrix
def test_two_processes_of_the_command_line_write_one_configuration_and_one_picture(folder):
    Path("late.py").write_text(LATE, encoding="utf-8")
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.callbacks+=late.NotingPlot"]
    in_a_new_process(*arguments("RigL", "sgd"), *ddp, "--trainer.max_steps", "6")
    assert sorted(path.name for path in Path().glob("*-[01]")) == ["drawn-0", "ended-0", "ended-1"]
    assert [path.name for path in Path("runs/digits").iterdir()] == ["version_0"]
    assert "RigL" in Path(RESUMED.format(0), "config.yaml").read_text(encoding="utf-8")
    assert Path(RESUMED.format(0), "sparsity.png").stat().st_size > 1000
    assert torch.load(checkpoint(0, 6), weights_only=True)["callbacks"]["SparseTrainingCallback"]["step"] == 6


@pytest.mark.slow_matrix
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_resumed_in_new_processes(folder, algorithm, optimizer):
    """A process takes seconds to start, so each pair has one of the three stops; other tests stop at every step."""
    place = list(ALGORITHMS).index(algorithm) + OPTIMIZERS.index(optimizer)
    train_and_resume(algorithm, optimizer, STOPS[place % len(STOPS)])
