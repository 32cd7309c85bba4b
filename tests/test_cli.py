"""The command line as its users type it: what it trains, what it shows, and what it says when a setting is wrong."""

import csv
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from rigl_lightning.cli.app import SparseCLI, _SaveFitConfig, main
from rigl_lightning.export import read_compact

CONFIGS = Path(__file__).parents[1] / "configs"

DIGITS = """
seed_everything: 0
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  logger:
    class_path: pytorch_lightning.loggers.CSVLogger
    init_args: {save_dir: runs, name: digits}
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_last: true, every_n_train_steps: 10}
model:
  class_path: rigl_lightning.modules.ImageClassifier
  init_args:
    model:
      class_path: rigl_lightning.models.LeNet300100
      init_args: {in_features: 64}
    num_classes: 10
    input_shape: [1, 8, 8]
    learning_rate: 0.1
    milestones: [0.5]
data:
  class_path: rigl_lightning.data.DigitsDataModule
sparse:
  algorithm:
    class_path: rigl_lightning.RigL
    init_args:
      sparsity: 0.9
      schedule: {interval: 10}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every command runs in an empty folder that holds one configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    Path("digits.yaml").write_text(DIGITS, encoding="utf-8")
    Path("damaged.ckpt").write_bytes(b"no checkpoint")
    torch.set_num_threads(1)
    return tmp_path


def test_a_config_file_of_the_users_own_is_never_written_over():
    Path("config.yaml").write_text("# precious\n" + DIGITS, encoding="utf-8")
    run("--trainer.logger", "false", "--trainer.max_steps", "1", config="config.yaml")
    assert Path("config.yaml").read_text(encoding="utf-8").startswith("# precious")


@pytest.mark.parametrize(("rank", "told", "saves"), [(0, True, False), (1, True, False), (1, False, True)])
def test_the_first_process_decides_for_all_whether_a_configuration_is_there(monkeypatch, rank, told, saves):
    """The last case is a process that comes late and finds the file that the first has just written."""
    saved, asked = [], []
    monkeypatch.setattr(SaveConfigCallback, "setup", lambda *args: saved.append(rank))
    strategy = SimpleNamespace(broadcast=lambda value: asked.append(value) or told)
    trainer = SimpleNamespace(log_dir=".", loggers=["one"], is_global_zero=rank == 0, strategy=strategy)
    callback = _SaveFitConfig.__new__(_SaveFitConfig)
    callback.config_filename = "digits.yaml"  # it is there
    callback.setup(trainer, None, "fit")
    assert asked == [rank == 0]  # every process takes part, and only the first looks
    assert bool(saved) == saves


def run(*args, command="fit", config="digits.yaml"):
    main([command, "--config", str(config), *args])


def error(capsys, *args, **settings):
    """The one line that a wrong command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*args, **settings)
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def last_metrics(version=0):
    with open(f"runs/digits/version_{version}/metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: value for row in rows for key, value in row.items() if value}


def test_fit_trains_saves_its_configuration_and_resumes_to_the_same_end():
    run()
    metrics = last_metrics()
    assert float(metrics["val/accuracy"]) > 0.5
    assert float(metrics["sparse/density"]) == pytest.approx(0.1, abs=1e-3)
    saved = yaml.safe_load(Path("runs/digits/version_0/config.yaml").read_text(encoding="utf-8"))
    assert saved["sparse"]["algorithm"]["init_args"]["schedule"]["interval"] == 10

    folder = Path("runs/digits/version_0/checkpoints")
    step_50 = next(folder.glob("*step=50.ckpt"))
    whole = torch.load(folder / "last.ckpt", weights_only=True)
    run("--ckpt_path", str(step_50), "--trainer.max_epochs", "2")
    assert float(last_metrics(1)["val/accuracy"]) == float(metrics["val/accuracy"])
    assert whole["global_step"] == 50


def test_a_saved_configuration_serves_every_command(capsys):
    run()
    saved = Path("runs/digits/version_0/config.yaml")
    before = saved.read_text(encoding="utf-8")
    run(config=saved)
    assert last_metrics(0)["val/loss"] == last_metrics(1)["val/loss"]
    checkpoint = "runs/digits/version_0/checkpoints/last.ckpt"
    for command in ("validate", "test", "predict"):
        run("--ckpt_path", checkpoint, command=command)
    assert "test/accuracy" in capsys.readouterr().out
    run(command="inspect", config=saved)
    assert "5 mask updates" in capsys.readouterr().out
    run("--ckpt_path", checkpoint, "--output", "net.pt", command="export", config=saved)
    assert Path("net.pt").is_file()
    assert saved.read_text(encoding="utf-8") == before

    run("--ckpt_path", checkpoint, config=saved)  # what it went on with is not the run's
    newest = max(Path("runs/digits").glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
    assert newest != saved
    assert "ckpt_path" not in yaml.safe_load(newest.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "algorithm",
    [
        *("Dense", "Static", "SNIP", "SET", "SNFS", "RigL", "GradualMagnitudePruning", "DropGrow"),
        *("DSR", "DeepR", "DNW", "TopKAST", "GraSP", "OneShotMagnitude"),
        *("MEST", "CHTs", "ACDC", "AnnealedTopK"),
    ],
)
def test_a_flag_changes_the_algorithm_and_keeps_its_settings(algorithm, capsys):
    run("--sparse.algorithm", algorithm, command="inspect")
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].startswith(algorithm)
    if algorithm in ("SET", "SNFS", "RigL", "DropGrow"):
        assert "5 mask updates, at steps 0, 10, 20, ..., 40" in shown  # interval 10 of 56 steps, T_end = 42
    sparsity = {"Dense": "0.0000", "GradualMagnitudePruning": "0.5558"}.get(algorithm, "0.9000")
    assert shown.splitlines()[-2].split()[-1] == sparsity


def test_an_unknown_command_is_one_line_that_names_the_known(capsys):
    expected = (
        "Expected a command of configs, fit, validate, test, predict, inspect, export, got 'fti'. Did you mean 'fit'"
    )
    assert expected in error(capsys, command="fti")


def test_a_configuration_that_changes_another_is_not_given_alone(capsys):
    expected = "Give both: --config mnist_lenet --config smoke/mnist_lenet."
    assert expected in error(capsys, config="smoke/mnist_lenet")


def test_a_setting_refused_by_its_class_is_told_without_what_the_parser_adds(capsys):
    line = error(capsys, "--data.init_args.batch_size=0")
    assert "got 0. Set --data.init_args.batch_size. (RIGL" in line


def test_inspect_shows_shapes_connections_and_flops_without_training(capsys):
    run(command="inspect")
    shown = capsys.readouterr().out
    row = next(line.split() for line in shown.splitlines() if line.startswith("model.3.weight"))
    assert row[:3] == ["model.3.weight", "100x300", "30,000"]
    assert row[5] == "0.060"  # 2 · 30,000
    assert "training of 56 steps" in shown
    assert not Path("runs").exists()


def test_inspect_counts_steps_of_data_that_is_not_there_yet(capsys):
    run(command="inspect", config=CONFIGS / "mnist_lenet.yaml")  # 200 epochs of 60,000 images, 100 at a time
    assert "training of 120,000 steps" in capsys.readouterr().out
    assert "MNIST not found" in error(capsys, config=CONFIGS / "mnist_lenet.yaml")  # fit needs it


def test_inspect_needs_data_of_unknown_size(capsys):
    Path("own_data.py").write_text(
        "from rigl_lightning.data import DigitsDataModule\n"
        "class Absent(DigitsDataModule):\n"
        "    def read_splits(self):\n        raise FileNotFoundError('nothing in DIR')\n",
        encoding="utf-8",
    )
    assert "nothing in DIR" in error(capsys, "--data=own_data.Absent", command="inspect")


def test_a_grow_criterion_of_ones_own_is_used_by_its_dotted_path(capsys):
    Path("mine.py").write_text(
        "def balanced_grow(c):\n    print('mine was asked')\n    return c.grad.abs() / (1 + c.mask.sum(1)[:, None])\n",
        encoding="utf-8",
    )
    for algorithm in ("RigL", "SET"):
        run("--sparse.algorithm", algorithm, "--sparse.algorithm.grow_score", "mine.balanced_grow")
        assert "mine was asked" in capsys.readouterr().out


def test_an_algorithm_of_ones_own_is_used_by_its_dotted_path(capsys):
    Path("own_algorithm.py").write_text(
        "from dataclasses import dataclass\n"
        "from rigl_lightning import RigL\n\n"
        "@dataclass(frozen=True)\n"
        "class Bolder(RigL):\n"
        "    boldness: float = 2.0\n\n"
        "    def drop_fraction_at(self, step):\n"
        "        return min(1.0, self.boldness * super().drop_fraction_at(step))\n",
        encoding="utf-8",
    )
    run("--sparse.algorithm", "own_algorithm.Bolder", "--sparse.algorithm.boldness", "1.5", command="inspect")
    assert capsys.readouterr().out.startswith("Bolder(schedule=UpdateSchedule(interval=10, end=42), boldness=1.5)")


def test_print_config_is_a_configuration(capsys):
    with pytest.raises(SystemExit):
        run("--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["sparse"]["algorithm"]["class_path"].endswith("RigL")
    assert printed["sparse"]["algorithm"]["init_args"]["decay"].endswith("schedules.cosine")
    Path("printed.yaml").write_text(yaml.safe_dump(printed), encoding="utf-8")
    run("--trainer.max_steps", "2", config="printed.yaml")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--sparse.algorithm.sparsity", "1.2"], "`sparsity` in [0, 1), got 1.2. Set --sparse.algorithm.sparsity"),
        (["--sparse.algorithm.sparsity", "-1"], "`sparsity` in [0, 1), got -1.0. Set --sparse.algorithm.sparsity"),
        (["--sparse.algorithm.sparsity", "many"], "sparsity"),
        (
            ["--sparse.algorithm", "Rigl"],
            "TopKAST, or the dotted path of a class, got 'Rigl'. Did you mean 'RigL'?",
        ),
        (
            ["--sparse.algorithm.sparcity", "0.9"],
            "a setting of RigL, got --sparse.algorithm.sparcity. Did you mean '--sparse.algorithm.sparsity'?",
        ),
        (["--sparse.algoritm", "RigL"], "Did you mean '--sparse.algorithm'?"),
        (["--sparse.algorithm.distribution", "Unifrom"], "Did you mean 'Uniform'?"),
        (["--sparse.algorithm.drop_fraction", "30"], "`drop_fraction` in [0, 1], got 30.0. Set --sparse.algorithm"),
        (["--sparse.algorithm.schedule.interval", "0"], "`interval` to be a whole number of steps, at least 1, got 0"),
        (["--sparse.algorithm.schedule.end", "1.5"], "`end` to be a step (int, at least 0) or a fraction"),
        (
            ["--sparse.exclude", "[model.7]"],
            "`exclude` to name sparse layers, but 'model.7' matches none. Did",
        ),
        (
            ["--sparse.algorithm.distribution.custom", '{"modle.1": 0.5}'],
            "`distribution.custom` to name sparse layers, but 'modle.1' matches none. Did you mean 'model.1'",
        ),
        (
            ["--sparse.algorithm.distribution.dense", "[model.3]"],
            "got 5020 connections in all, of which 30000 go to dense layers (model.3.weight)",
        ),
        (
            ["--sparse.exclude", "model.1"],
            "Expected --sparse.exclude to be a list, got model.1. Set --sparse.exclude [model.1]",
        ),
        (["--sparse.algorithm.distribution", "ERK"], "ERK is ErdosRenyi"),
        (["--sparse.algorithm.distribution", "erk"], "ERK is ErdosRenyi"),
        (["--sparse.algorithm", "rigl"], "got 'rigl'. Did you mean 'RigL'?"),
        (["--sparse.algorithm", "TopK"], "Did you mean 'TopKAST'?"),
        (["--data.root", "nowhere"], "Expected a setting of DigitsDataModule, got --data.root. Its settings are"),
        (["--sparse.algorithm.schedule", "10"], "Set its .interval, .begin or .end"),
        (["--sparsity", "0.8"], "Did you mean '--sparse.algorithm.sparsity'?"),
        (["mnist_lenet"], "Expected options, got 'mnist_lenet'. Did you mean '--config mnist_lenet'?"),
        (["--sparse.compute", "fast"], "Expected --sparse.compute to be one of 'auto', 'sparse', 'dense', got 'fast'."),
        (["--algorithm", "SET"], "Did you mean '--sparse.algorithm'?"),
        (["--model", "nowhere.Net"], "No module named 'nowhere'"),
        (
            ["--sparse.algorithm.grow_score", "mine.missing"],
            "Expected --sparse.algorithm.grow_score to be a dotted path",
        ),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--sparse.algorithm", "FixedMasks"], "Expected also --sparse.algorithm.checkpoint."),
        (
            ["--sparse.algorithm", "FixedMasks", "--sparse.algorithm.checkpoint", "nowhere.ckpt"],
            "Set --sparse.algorithm.checkpoint",
        ),
        (["--data", "MNISTDataModule", "--data.root", "nowhere"], "--data.init_args.root"),
        (["--data", "CIFAR10DataModule", "--data.root", "nowhere"], "--data.init_args.root"),
        (["--data", "TextBytesDataModule", "--data.root", "nowhere"], "--data.init_args.root"),
        (["--data.batch_size", "5000"], "`batch_size` of at most 1437"),
        (["--data.batch_size", "0"], "`batch_size` of at least 1, got 0. Set --data.init_args.batch_size"),
        (["--model.model", "WideResNet", "--model.model.depth", "23"], "Expected `depth` of the form 6n + 4"),
        (["--sparse.exclude", "model.1"], "exclude"),
        (
            ["--sparse.algorithm", "Static", "--sparse.algorithm.drop_fraction", "0.1"],
            "Expected a setting of Static, got --sparse.algorithm.drop_fraction. Its settings are sparsity,",
        ),
        (["--ckpt_path", "damaged.ckpt"], "Set --ckpt_path"),
        (["--trainer.strategy", "deepspeed"], "deepspeed"),
        (["--modle.learning_rate", "3"], "Did you mean '--model.learning_rate'?"),
        (["--dat.batch_size", "3"], "Did you mean '--data.batch_size'?"),
        (["--sparse.algoritm.sparsity", "0.5"], "Did you mean '--sparse.algorithm.sparsity'?"),
        (["--trainer.max_steps", "many"], "Expected --trainer.max_steps to be a whole number, got 'many'."),
        (["--sparse.seed", "abc"], "Expected --sparse.seed to be a whole number or null, got 'abc'."),
        (
            ["--sparse.algorithm.distribution.kernel", "7"],
            "Expected --sparse.algorithm.distribution.kernel to be true or false, got '7'.",
        ),
        (["--sparse.algorithm.schedule.end", "x"], "--sparse.algorithm.schedule.end to be a whole number or a number"),
        (["--sparse.algorithm.decay", "foo"], "Expected --sparse.algorithm.decay to be a dotted path, got 'foo'."),
        (["--trainer.logger.flush_logs_every_n_steps=x"], "--trainer.logger.flush_logs_every_n_steps to be a whole"),
        (["--trainer.precision", "17"], "Expected --trainer.precision to be one of 64, 32, 16,"),
        (["--trainer.callbacks+=SparsityPlt"], "got 'SparsityPlt'. Did you mean 'SparsityPlot'?"),
        (["--model", "ImageClasifier"], "the dotted path of a LightningModule or null, got 'ImageClasifier'. Did you"),
        (["--training_multiplier", "0"], "Expected --training_multiplier to be a number above 0, got '0'."),
        (["--seed_everything", "-1"], "Expected a seed in [0, 4294967295], got -1. Set --seed_everything."),
        (["--seed_everything", "1099511627776"], "Expected a seed in [0, 4294967295], got 1099511627776."),
        (["--trainer.accelerator", "foo"], "got foo. Set --trainer.accelerator."),
        (["--trainer.accelerator", "tpu"], "got tpu. Set --trainer.accelerator."),
        (["--trainer.devices", "x"], "Set --trainer.devices."),
        (["--trainer.logger.save_dir", "nowhere://x"], "an address that fsspec knows, got nowhere://"),
        (["--model.input_shape", "[1, 7, 8]"], "Expected data of the size that the network takes"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(capsys, args, expected):
    assert expected in error(capsys, *args)
    assert not list(Path().glob("runs/digits/*/checkpoints/*"))


def told(line, with_place, without):
    """Whether a broken file is told; of a class that cannot be imported the oldest jsonargparse does not say where."""
    is_oldest = version("jsonargparse").startswith("4.44.")
    return (without if is_oldest else with_place) in line


BROKEN = {
    "syntax": "class Net(:\n    pass\n",
    "imports": "import nothere\n",
    "fails": "raise RuntimeError('boom')\n",
    "plain": "from torch import nn\nclass Net(nn.Linear):\n    pass\nnumber = 3\n",
    "refuses": "import pytorch_lightning as pl\nclass Net(pl.LightningModule):\n    def __init__(self, width: int):\n"
    "        raise ValueError(f'no width {width}')\n",
}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--model", "imports.Net"], "got 'imports.Net': No module named 'nothere', which imports needs."),
        (["--model", "plain.Net"], "To train this network, set --model ImageClassifier --model.model plain.Net."),
        (
            ["--model", "refuses.Net", "--model.width", "3"],
            "Expected refuses.Net to accept its settings, but it fails: no",
        ),
        (["--sparse.algorithm", "plain.Net"], "got 'plain.Net', which is no SparseAlgorithm."),
        (["--sparse.algorithm.grow_score", "plain.number"], "of a function or a class to call, got 'plain.number'."),
    ],
)
def test_a_class_of_ones_own_that_does_not_work_is_told_with_the_reason(capsys, args, expected):
    for name, text in BROKEN.items():
        Path(f"{name}.py").write_text(text, encoding="utf-8")
        sys.modules.pop(name, None)
    assert expected in error(capsys, *args)


@pytest.mark.parametrize(
    ("name", "with_place", "without"),
    [
        ("syntax", "syntax.py, line 1: invalid syntax. Correct the file.", "invalid syntax (syntax.py, line 1)."),
        ("fails", "fails.py to be importable, line 1 raises RuntimeError: boom. Correct the file.", "fails: boom."),
    ],
)
def test_a_file_of_ones_own_that_fails_is_told_with_the_place(capsys, name, with_place, without):
    Path(f"{name}.py").write_text(BROKEN[name], encoding="utf-8")
    sys.modules.pop(name, None)
    assert told(error(capsys, "--model", f"{name}.Net"), with_place, without)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--sparse.by_density", "true"], "to be settings of its own (.init, .learning_rate) or null, got 'true'."),
        (
            ["--sparse.by_density.foo", "1"],
            "Expected a setting of ByDensity, got --sparse.by_density.foo. Its settings",
        ),
        (["--sparse", "RigL"], "Expected --sparse to have settings of its own, got 'RigL'. Did you mean '--sparse.alg"),
        (["--sparse", "true"], "Expected --sparse to have settings of its own, got 'true'. Set --sparse.algorithm, "),
        (["--sparse.sparsity", "0.5"], "got --sparse.sparsity. Did you mean '--sparse.algorithm.sparsity'?"),
        (["--sparse.algorithm", "0.9"], "or the dotted path of a class, got '0.9'."),
        (["--sparse.algorithm", "null"], "or the dotted path of a class, got 'None'."),
        (["--sparse.algorithm.schedule", "null"], "Expected --sparse.algorithm.schedule to have settings of its own"),
        (["--sparse.algorithm.schedule.intervall", "3"], "Did you mean '--sparse.algorithm.schedule.interval'?"),
        (["--sparse.algorithm.decay", "cosine"], "Did you mean 'rigl_lightning.sparsity.schedules.cosine'?"),
        (["--sparse.algorithm.decay", "cosin"], "got 'cosin'. Did you mean 'cosine'?"),
        (["--sparse.algorithm.structure.n", "2"], "got --sparse.algorithm.structure.n. Unstructured has no settings."),
        (["--sparse.algorithm.drop_fraction"], "Expected a value after --sparse.algorithm.drop_fraction, got none."),
        (["--sparse.algorithm.help", "RigLL"], "got 'RigLL'. Did you mean 'RigL'?"),
        (["--trainer.callbacks+=EarlyStopping"], "Expected also --trainer.callbacks.monitor."),
        (
            ["--trainer.callbacks+=SparsityPlot", "--trainer.callbacks.foo", "3"],
            "of SparsityPlot, got --trainer.callbacks",
        ),
        (
            ["--trainer.callbacks+=torch.nn.Linear"],
            "the dotted path of a Callback or null, got 'torch.nn.Linear', which",
        ),
        (["--sparse.include", "[]"], "Set --sparse.include or shorten --sparse.exclude."),
        (["--trainer.device", "1"], "Did you mean '--trainer.devices'?"),
        (["--trainer.strategy", "fsdp"], "Set --trainer.strategy."),
        (["--trainer.val_check_interval", "1000"], "of the Trainer: `val_check_interval` (1000) must be less than"),
        (["--trainer.accumulate_grad_batches", "0"], "got 0. Set --trainer.accumulate_grad_batches."),
        (
            ["--model.learning_rate=-1"],
            "Expected settings that the optimizer takes, got learning rate -1.0. Set --model.",
        ),
        (["--model.milestones", "0.5"], "Set --model.milestones [0.5]"),
        (["--model.input_shape", "64"], "Expected --model.input_shape to be a list, got '64'."),
        (["--model.input_shape", "[1, 8]"], "Expected --model.input_shape to be a list of 3, got [1, 8]."),
        (
            ["--model.model", "LeNet300"],
            "Expected --model.model to be a dotted path, got 'LeNet300'. Did you mean 'LeNet3",
        ),
        (["--model.model", "torch.nn.Linear"], "Expected also --model.model.out_features."),
        (["--data", "mnist"], "got 'mnist'. Did you mean 'MNISTDataModule'?"),
        (["--data.batch", "3"], "of DigitsDataModule, got --data.batch. Did you mean '--data.batch_size'?"),
        (["--lr", "3"], "got --lr. Did you mean '--model.learning_rate'?"),
        (["--epochs", "3"], "got --epochs. Did you mean '--trainer.max_epochs'?"),
        (["--batch_size", "3"], "got --batch_size. Did you mean '--data.batch_size'?"),
        (["--model", "LeNet300100"], "set --model ImageClassifier --model.model LeNet300100."),
    ],
)
def test_a_message_names_the_whole_setting_and_what_it_takes(capsys, args, expected):
    assert expected in error(capsys, *args)


def test_a_second_sparse_training_callback_is_refused_with_where_its_settings_belong(capsys):
    told = (
        "Expected SparseTrainingCallback once, as the group `sparse`, got one under --trainer.callbacks too. Remove it"
    )
    entry = "    - class_path: rigl_lightning.SparseTrainingCallback\n      init_args: {algorithm: {class_path: RigL}"
    twice = DIGITS.replace("  callbacks:\n", f"  callbacks:\n{entry}}}\n")
    Path("twice.yaml").write_text(twice, encoding="utf-8")
    Path("moved.yaml").write_text(twice.partition("sparse:\n")[0], encoding="utf-8")
    for config in ("twice.yaml", "moved.yaml"):
        assert told in error(capsys, config=config)
    for name in ("SparseTrainingCallback", "rigl_lightning.SparseTrainingCallback"):
        assert told in error(capsys, f"--trainer.callbacks+={name}")
    named = DIGITS.replace("  callbacks:\n", f"  callbacks:\n{entry}, name: second}}\n")
    Path("named.yaml").write_text(named, encoding="utf-8")
    assert "an optimizer of its own for each SparseTrainingCallback" in error(capsys, config="named.yaml")
    Path("same.yaml").write_text(named.replace("\nsparse:", "\nsparse:\n  name: second"), encoding="utf-8")
    assert "two callbacks SparseTrainingCallback whose state has one name. Remove" in error(capsys, config="same.yaml")


def test_a_base_class_is_not_offered_as_an_algorithm(capsys):
    assert " TopK," not in error(capsys, "--sparse.algorithm", "Rigl")


@pytest.mark.parametrize("command", ["test", "validate", "predict", "export"])
def test_a_network_that_nobody_trained_is_refused(capsys, command):
    place = ["--output", "net.pt"] if command == "export" else []
    assert "--ckpt_path" in error(capsys, *place, command=command)
    for given in ("last", "best"):
        line = error(capsys, *place, "--ckpt_path", given, command=command)
        assert f"Expected a checkpoint for {command}" in line
        assert "to last for the newest run with all these settings" in line
    assert not Path("net.pt").exists()


def test_initial_weights_are_tested_if_they_are_asked_for(capsys):
    with pytest.warns(UserWarning, match="The network is dense: 0.0% of its weights are zero, and RigL leaves 90.0%"):
        run("--ckpt_path", "none", command="test")
    assert "test/accuracy" in capsys.readouterr().out


def test_the_newest_run_of_a_configuration_is_found_by_every_command(capsys):
    run("--trainer.max_steps", "10")
    for command, more in (("test", []), ("validate", []), ("export", ["--output", "net.pt"])):
        run("--ckpt_path", "last", "--trainer.max_steps", "10", *more, command=command)
        assert "untrained" not in capsys.readouterr().err
    assert Path("net.pt").is_file()
    assert "Expected a checkpoint for test" in error(capsys, "--ckpt_path", "last", command="test")  # of 56 steps


def test_a_run_of_a_version_that_had_fewer_settings_is_found(capsys):
    run("--trainer.max_steps", "10")
    config = Path("runs/digits/version_0/config.yaml")
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    for later in ("storage", "adam_warm_up", "by_density"):
        del settings["sparse"][later]
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run("--ckpt_path", "last", "--trainer.max_steps", "10", command="test")
    assert "Expected a checkpoint for test" in error(
        capsys, "--ckpt_path", "last", "--trainer.max_steps", "10", "--sparse.seed", "3", command="test"
    )


def test_classes_that_a_checkpoint_names_are_neither_imported_nor_made(capsys):
    run("--trainer.max_steps", "10")
    Path("other.py").write_text("raise SystemExit('CODE OF other.py RAN')\n", encoding="utf-8")
    checkpoint = "runs/digits/version_0/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] = {"_class_path": "other.Net", "num_classes": 3}
    torch.save(content, "named.ckpt")
    for command, more in (("test", []), ("predict", []), ("fit", []), ("export", ["--output", "net.pt"])):
        run("--ckpt_path", "named.ckpt", *more, command=command)
    assert Path("net.pt").is_file()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"hello world\n", "was not written by torch"),
        (b"PK\x03\x04" + bytes(500), "is damaged"),
        ({"model.1.weight": torch.ones(2)}, "found no `state_dict`"),
        ([1, 2], "found no `state_dict`"),
        ({"state_dict": {}, "x": Path("a")}, "holds objects such as pathlib."),
    ],
)
def test_what_is_no_checkpoint_is_one_line(capsys, data, reason):
    Path("x.ckpt").write_bytes(data) if isinstance(data, bytes) else torch.save(data, "x.ckpt")
    for command, more in (("fit", []), ("test", []), ("export", ["--output", "net.pt"])):
        line = error(capsys, "--ckpt_path", "x.ckpt", *more, command=command)
        assert reason in line
        assert "Set --ckpt_path" in line
        assert "x.ckpt" in line


def test_a_checkpoint_of_a_loop_without_lightning_is_one_line(capsys):
    torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(2)}, "optimizer": {}}, "x.ckpt")
    for command in ("fit", "test", "predict"):
        line = error(capsys, "--ckpt_path", "x.ckpt", command=command)
        assert "a checkpoint of Lightning at x.ckpt, found no `pytorch-lightning_version` in it. Set --ckpt_" in line


def test_a_folder_in_place_of_a_checkpoint_is_told_with_the_file_in_it(capsys):
    Path("run/checkpoints").mkdir(parents=True)
    for command, more in (("fit", []), ("predict", []), ("export", ["--output", "net.pt"])):
        line = error(capsys, "--ckpt_path", "run", *more, command=command)
        assert "Expected a checkpoint file, got the folder run. Set --ckpt_path to a file." in line
    Path("run/checkpoints/last.ckpt").touch()
    for folder in ("run", "run/checkpoints"):
        line = error(capsys, "--ckpt_path", folder, command="test")
        assert f"got the folder {folder}. Set --ckpt_path to run/checkpoints/last.ckpt." in line


def test_every_file_of_a_run_may_be_remote(capsys, caplog):
    fs = pytest.importorskip("fsspec").filesystem("memory")
    picture = "--trainer.callbacks+=rigl_lightning.SparsityPlot"
    remote = (picture, "--trainer.logger.save_dir", "memory://runs", "--trainer.default_root_dir", "memory://root")
    metrics = "--trainer.logger=rigl_lightning.csv_logger.ResumableCSVLogger"
    remote = (metrics, "--trainer.logger.name", "digits", *remote, "--ckpt_path", "last")
    run(*remote, "--trainer.max_epochs", "1")
    run(*remote, "--trainer.max_epochs", "1")
    assert "Going on with memory://" in caplog.text
    line = capsys.readouterr().out.strip().splitlines()[-1]
    names = ("config.yaml", "metrics.csv", "sparsity.png", "checkpoints/last.ckpt")
    assert all(f"memory://runs/digits/version_0/{name}" in line for name in names)
    assert all(fs.size(f"/runs/digits/version_0/{name}") > 0 for name in names)
    main(line.split("python -m rigl_lightning ")[1].split())  # the test
    last = "memory://runs/digits/version_0/checkpoints/last.ckpt"
    run("--ckpt_path", last, "--output", "memory://nets/net.pt", command="export")
    state, masks = read_compact("memory://nets/net.pt")
    assert sum(int(mask.sum()) for mask in masks.values()) == 5020
    run("--sparse.algorithm", "FixedMasks", "--sparse.algorithm.checkpoint", last, "--trainer.max_steps", "2")
    assert not list(Path().glob("memory:*"))
    fs.rm("/runs", recursive=True)
    fs.rm("/nets", recursive=True)


def test_predictions_are_written(capsys):
    run("--trainer.max_steps", "10")
    last = "runs/digits/version_0/checkpoints/last.ckpt"
    for output in ("classes.csv", "classes.pt"):
        run("--ckpt_path", last, "--output", output, command="predict")
        assert f"predictions: int64 (360,) in {output}" in capsys.readouterr().out
    classes = torch.load("classes.pt", weights_only=True)
    assert Path("classes.csv").read_text(encoding="utf-8").split() == [str(int(c)) for c in classes]
    line = error(capsys, "--ckpt_path", last, "--output", "nowhere/classes.pt", command="predict")
    assert "Expected a folder for nowhere/classes.pt" in line

    before = Path(last).read_bytes()
    for command in ("predict", "export"):
        line = error(capsys, "--ckpt_path", last, "--output", f"./{last}", command=command)
        assert "last.ckpt, which is read and would be lost. Set --output." in line
    assert Path(last).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 0\nb:\n  c: 2\n d: cpu\n", "Expected YAML in own.yaml, line 4, column 2: "),
        ("b: {c: 2\nd: [", "Expected YAML in own.yaml, line 2, column 2: "),
        ("", "Expected settings by name in own.yaml, got nothing."),
        (
            DIGITS.replace("  max_epochs: 2", "  max_epochs: 2\n  max_epochs: 3"),
            "`max_epochs` again in line 5, column 3.",
        ),
        (DIGITS.replace("schedule: {interval: 10}", "schedule: 10"), "to have settings of its own, got 10. Set its"),
        (DIGITS.replace("{interval: 10}", "{intervall: 10}"), "got sparse.algorithm.schedule.intervall. Did you mean"),
        (
            DIGITS.replace("      sparsity: 0.9\n", "    sparsity: 0.9\n", 1)
            .replace("    sparsity: 0.9\n      sch", "      sch")
            .replace("    init_args:\n      sch", "    sparsity: 0.9\n    init_args:\n      sch"),
            "Put sparsity under init_args.",
        ),
        (
            DIGITS.replace("class_path: rigl_lightning.RigL\n", "class: rigl_lightning.RigL\n"),
            "Did you mean 'class_path'?",
        ),
        (
            DIGITS.replace("class_path: rigl_lightning.RigL\n", "RigL: {}\n"),
            "to have class_path and init_args, got RigL, init_args. Add class_path: NAME.",
        ),
        (DIGITS.replace("sparse:\n", "sparse:\n  by_density: true\n"), "(.init, .learning_rate) or null, got 'True'."),
        (DIGITS.replace("sparse:\n", "sparse:\n  sparsity: 0.9\n"), "Did you mean 'sparse.algorithm.sparsity'?"),
        (
            DIGITS.replace("class_path: rigl_lightning.data.DigitsDataModule", "batch_size: 3"),
            "Expected a class for --data,",
        ),
        ("- 1\n- 2\n", "Expected settings by name in own.yaml, got list."),
        (DIGITS.replace("max_epochs", "max_epoch"), "got trainer.max_epoch. Did you mean 'trainer.max_epochs'?"),
        (DIGITS.replace("sparse:", "sparsity:"), "Did you mean 'sparse.algorithm.schedule.interval'?"),
        (DIGITS.replace("num_classes: 10", ""), "Expected also --model.num_classes."),
    ],
)
def test_a_wrong_configuration_names_its_place(capsys, text, expected):
    Path("own.yaml").write_text(text, encoding="utf-8")
    assert expected in error(capsys, config="own.yaml")


class CtrlC(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 12:
            raise KeyboardInterrupt


class Terminated(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 12:
            raise SIGTERMException


@pytest.mark.parametrize(("stop", "status"), [(CtrlC, 130), (Terminated, 143)])
def test_an_interrupted_training_says_how_to_go_on(monkeypatch, capsys, stop, status):
    original = SparseCLI.instantiate_trainer

    def interrupted(self, **kwargs):
        trainer = original(self, **kwargs)
        trainer.callbacks.append(stop())
        return trainer

    handler = signal.getsignal(signal.SIGINT)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(SparseCLI, "instantiate_trainer", interrupted)
            with pytest.raises(SystemExit) as end:
                run()
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert end.value.code == status
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("Interrupted after 12 steps: checkpoint runs/digits/version_0/checkpoints/")
    main(line.split("go on: python -m rigl_lightning ")[1].split())
    assert "Done after 56 steps" in capsys.readouterr().out


def test_an_interruption_before_the_training_is_one_line(monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rigl_lightning.cli.app.SparseCLI", stop)
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


ALONE = """
import sys
sys.argv[1:] = {args}
from rigl_lightning.__main__ import main
main()
assert not {{"torch", "numpy", "pytorch_lightning"}} & {{*sys.modules}}
"""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--version"], "rigl-lightning 0."),
        (["--help"], "usage: rigl-lightning COMMAND"),
        ([], "usage: rigl-lightning COMMAND"),
        (["configs", "--help"], "usage: rigl-lightning configs [NAME]"),
        (["configs"], "mnist_lenet"),
    ],
)
def test_what_needs_no_network_waits_for_no_library(args, expected):
    command = [sys.executable, "-c", ALONE.format(args=args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(expected) or expected in done.stdout.split()


def test_help_has_our_settings_first_and_is_short():
    # In a process of its own: modules and data of other tests would be among the known classes.
    command = [sys.executable, "-m", "rigl_lightning", "fit", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    places = [
        shown.index(text) for text in ("usage:", "--sparse.algorithm", "--model", "--data", "--ckpt_path", "--trainer.")
    ]
    assert places == sorted(places)
    for known in ("rigl_lightning.RigL", "modules.ImageClassifier", "data.DigitsDataModule"):
        assert known in "".join(shown.split())
    assert "\n\nTrain, or resume a training.\n" in shown
    assert "a name that `rigl-lightning configs` lists" in " ".join(shown.split())
    for base in ("top_k.TopK", "pytorch_lightning.LightningModule", "InMemoryDataModule", "ResumableDataModule"):
        assert base not in "".join(shown.split())
    assert len(shown.splitlines()) < 150


def test_a_checkpoint_of_another_architecture_is_one_line(capsys):
    run("--trainer.max_steps", "10")
    checkpoint = "runs/digits/version_0/checkpoints/last.ckpt"
    wrong = "--model.model.in_features=32"
    line = error(capsys, "--ckpt_path", checkpoint, wrong)
    assert "its weights do not fit" in line
    assert "model.1.weight" in line
    assert "--ckpt_path" in line


def test_the_traceback_can_be_had(monkeypatch):
    monkeypatch.setenv("RIGL_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="sparsity"):
        run("--sparse.algorithm.sparsity", "1.2")


def test_an_error_of_the_users_own_code_keeps_its_traceback():
    Path("broken.py").write_text("def broken(c):\n    raise ValueError('something of the user')\n", encoding="utf-8")
    with pytest.raises(ValueError, match="something of the user"):
        run("--sparse.algorithm.grow_score", "broken.broken")


@pytest.mark.parametrize("option", ["--sparse.algorithm.grow_score", "--model.init_args.model"])
def test_a_file_of_the_user_that_fails_while_it_is_imported_is_one_line(capsys, option):
    Path("failing.py").write_text("LIMIT = 1 / 0\n", encoding="utf-8")
    line = error(capsys, option, "failing.anything")
    with_place = "failing.py to be importable, line 1 raises ZeroDivisionError: division by zero. Correct the file."
    without = "got 'failing.anything', which fails: division by zero." if option.endswith("model") else with_place
    assert told(line, with_place, without)


def test_a_network_may_be_a_function_with_a_width(capsys):
    network = ["--model.init_args.model", "rigl_lightning.models.mobilenet_v1", "--model.init_args.num_classes", "10"]
    width = ["--model.init_args.model.init_args.width", "0.1", "--model.init_args.input_shape", "[3, 32, 32]"]
    run(*network, *width, command="inspect")
    assert "model.conv_stem.weight 8x3x3x3 216" in " ".join(capsys.readouterr().out.split())


def test_a_lottery_ticket_has_the_initial_weights_of_its_seed():
    run("--trainer.max_steps", "10")
    ticket = ("--sparse.algorithm", "LotteryTicket", "--sparse.algorithm.checkpoint")
    ticket = (*ticket, "runs/digits/version_0/checkpoints/last.ckpt", "--trainer.max_steps", "2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(*ticket)
        run(*ticket, "--sparse.algorithm.algorithm", "RigL", "--sparse.algorithm.algorithm.schedule.interval", "1")
    assert not [w for w in caught if "lottery ticket" in str(w.message)]
    assert float(last_metrics(2)["sparse/density"]) == pytest.approx(0.1, abs=1e-3)
    with pytest.warns(UserWarning, match="this is no lottery ticket.*seed_everything"):
        run(*ticket, "--seed_everything", "1")
