"""Every configuration says what it should, and trains with every algorithm."""

import csv
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rigl_lightning.cli import main
from rigl_lightning.sparsity import algorithms

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
NAMES = [path.stem for path in CONFIGS]
ALGORITHMS = sorted(
    name
    for name in algorithms.__all__
    if inspect.isclass(algorithm := getattr(algorithms, name)) and not inspect.isabstract(algorithm)
)


def _some(names, quick):
    """All names; those that are not in ``quick`` belong to the long matrix."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow_matrix) for name in names]


FROM_A_CHECKPOINT = {"FixedMasks", "LotteryTicket"}
# Of the 20 steps of the smoke scale, where the defaults are meant for thousands.
MORE = {
    "GradualMagnitudePruning": ("ramp.interval=2", "ramp.end=0.75"),
    "GraNet": ("schedule.end=1.0",),  # LeNet's schedule ends before GraNet's pruning does, which is refused
    "Group": ('algorithms={"*": {"class_path": "RigL"}}',),
    "LotteryTicket": ("algorithm=Static",),
    "SRSTE": ("structure=Unstructured",),  # no configuration has a sparsity of a half
    "TopKAST": ("backward_sparsity=0.5",),  # its default would leave the character GRU's active weights untrained
}


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    torch.set_num_threads(1)

    def run(command, name, *args, smoke=True):
        files = [FOLDER / f"{name}.yaml", *([FOLDER / "smoke" / f"{name}.yaml"] if smoke else [])]
        quiet = [f"--trainer.{s}=false" for s in ("enable_progress_bar", "enable_model_summary")]
        main([command, *(f"--config={file}" for file in files), *quiet, "--trainer.accelerator=cpu", *args])

    return run


def checkpoint(name, version=0):
    return Path(f"runs/{name}/version_{version}/checkpoints/last.ckpt").resolve()


def train_and_test(command, name, algorithm, capsys):
    args = [f"--sparse.algorithm={algorithm}", *(f"--sparse.algorithm.{more}" for more in MORE.get(algorithm, ()))]
    if algorithm in FROM_A_CHECKPOINT:
        command("fit", name, "--sparse.algorithm=Static")
        args.insert(1, f"--sparse.algorithm.checkpoint={checkpoint(name)}")
    command("fit", name, *args, "--trainer.logger.version=7")
    last = checkpoint(name, 7)
    assert torch.load(last, weights_only=True)["global_step"] == 20
    capsys.readouterr()
    command("test", name, *args, f"--ckpt_path={last}")
    shown = capsys.readouterr()
    assert "sparse/density" in shown.out
    assert "sparse/size_bytes" in shown.out
    assert "test/" in shown.out


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*((name, "RigL") for name in NAMES if name != "imagenet_mobilenet_v2"), ("imagenet_mobilenet_v2", "GraNet")],
)
def test_a_smoke_run_trains_and_tests(command, name, algorithm, capsys):
    train_and_test(command, name, algorithm, capsys)


@pytest.mark.slow_matrix
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_trains_20_steps_with_every_algorithm(command, name, algorithm, capsys):
    train_and_test(command, name, algorithm, capsys)


@pytest.mark.slow_matrix
@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_passes_a_dry_run(command, name):
    command("fit", name, "--trainer.fast_dev_run", "true")
    assert not Path("runs").exists()


@pytest.fixture
def image_root(tmp_path):
    for split, n in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(np.full((40, 40, 3), 60 * i, np.uint8)).save(
                    tmp_path / "images" / split / name / f"{i}.png"
                )
    return tmp_path / "images"


@pytest.mark.parametrize("name", _some(NAMES, quick=("imagenet_resnet50", "cifar10_wrn22", "mnist_lenet")))
def test_every_configuration_trains_on_data_of_its_own_kind(command, name, request):
    short = ["--trainer.max_steps=3", "--trainer.limit_val_batches=1", "--data.batch_size=2"]
    if name.startswith("imagenet"):
        root = request.getfixturevalue("image_root")
        own = ["--data.resolution=32", "--data.num_workers=0", "--data.num_classes=2", "--data.total_batch_size=null"]
        own += ["--data.train_images=null", "--data.val_images=null", f"--data.root={root}"]
        own += ["--model.num_classes=2", "--model.model.num_classes=2", "--model.model.width=0.25"]
        own += ["--model.input_shape=[3, 32, 32]", "--trainer.accumulate_grad_batches=1", "--training_multiplier=1"]
    elif name == "char_gru":
        own = ["--data.sequence_length=16", "--trainer.val_check_interval=2"]
    elif name == "digits":
        own = []
    else:
        root = request.getfixturevalue("cifar_root" if name.startswith("cifar") else "mnist_root")
        own = [f"--data.root={root}"]
    command("fit", name, *short, *own, smoke=False)
    assert torch.load(checkpoint(name), weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_the_head_of_a_configuration_gives_the_command_and_what_to_expect(path):
    head = path.read_text(encoding="utf-8").split("\nseed_everything")[0]
    assert f"python -m rigl_lightning fit --config configs/{path.name}" in head
    assert "Expected" in head
    assert "Device-hours" in head
    assert re.search(r"estimated from a measured [\d.]+ m?s ", head)
    assert "--ckpt_path last" in head


def test_every_configuration_has_a_smoke_scale_that_changes_it_and_does_not_copy_it():
    assert [path.stem for path in sorted((FOLDER / "smoke").glob("*.yaml"))] == NAMES
    for name in NAMES:
        config, smoke = (yaml.safe_load((FOLDER / folder / f"{name}.yaml").read_text()) for folder in ("", "smoke"))
        assert not _equal_settings(config, smoke)


def _equal_settings(config, overlay, path=""):
    same = []
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            same += _equal_settings(config[key], value, f"{path}{key}.")
        elif config.get(key) == value and key not in ("devices", "max_epochs"):
            same.append(f"{path}{key}")
    return same


class TestTrainingMultiplier:
    """Steps, learning rate, T_end and pruning windows move together; update intervals stay."""

    @pytest.mark.parametrize(
        ("name", "factor", "steps", "last_update"),
        [
            ("imagenet_resnet50", 1, 32_000, 24_900),
            ("imagenet_resnet50", 5, 160_000, 124_900),
            ("imagenet_mobilenet_v1", 5, 160_000, 124_900),
            ("imagenet_mobilenet_v2", 5, 160_000, 124_900),
            ("cifar10_wrn22", 2, 195_312, 149_900),
            ("char_gru", 1.5, 300_000, 299_900),
        ],
    )
    def test_at_paper_scale(self, command, name, factor, steps, last_update, capsys):
        small = ["--model.model.width=0.25", "--model.input_shape=[3, 32, 32]"] if name.startswith("imagenet") else []
        command("inspect", name, f"--training_multiplier={factor}", *small, smoke=False)
        shown = capsys.readouterr().out
        assert f"training of {steps:,} steps" in shown
        assert f"at steps 0, 100, 200, ..., {last_update}" in shown

    @pytest.mark.parametrize("end", ["0.75", "15"])
    def test_a_pruning_window_moves_along_in_steps_and_in_fractions(self, command, end, capsys):
        ramp = [f"--sparse.algorithm.ramp.{s}" for s in ("begin=5", f"end={end}", "interval=5")]
        pruning = ["--sparse.algorithm=GradualMagnitudePruning", *ramp]
        for factor, updates in ((1, "5, 10, 15"), (4, "20, 25, 30, ..., 60")):
            command("inspect", "char_gru", *pruning, f"--training_multiplier={factor}")
            assert f"at steps {updates}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("name", _some([n for n in NAMES if n != "char_gru"], quick=("imagenet_resnet50",)))
    def test_the_learning_rate_moves_along(self, command, name):
        monitor = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.log_every_n_steps=1"]
        command("fit", name, "--training_multiplier=3", *monitor)
        init = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"]["init_args"]
        with open(f"runs/{name}/version_0/metrics.csv", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("lr-SGD/pg1")]
        rates = [float(row["lr-SGD/pg1"]) for row in rows]
        assert len(rates) == 60
        rise = round(init.get("warmup", 0) * 60)
        drops = [step for step in range(max(rise, 1), 60) if rates[step] < 0.9 * rates[step - 1]]
        assert drops == [round(fraction * 60) for fraction in init["milestones"]]
        assert rates[:rise] == pytest.approx([rates[rise] * step / rise for step in range(rise)])

    def test_a_part_of_an_epoch_is_refused(self, command, capsys):
        with pytest.raises(SystemExit):
            command("inspect", "mnist_lenet", "--training_multiplier=1.25")
        assert "Expected whole epochs, got 2 x 1.25 = 2.5. Set --training_multiplier" in capsys.readouterr().err


def settings(name):
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return config, config["sparse"]["algorithm"]["init_args"], config["model"]["init_args"]


def imagenet_epoch(step):
    return step * 4096 / 1_281_167


@pytest.mark.slow
def test_the_first_command_of_readme_learns_and_leaves_a_picture(monkeypatch, tmp_path, capsys):
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^rigl-lightning (fit[^#\n]*)", readme, re.MULTILINE)[1].split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    torch.set_num_threads(1)
    main([*command, "--trainer.enable_progress_bar=false"])
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert float(re.search(r"val/accuracy (\S+),", last_line)[1]) > 0.95
    assert Path(re.search(r"picture (\S+);", last_line)[1]).is_file()


@pytest.mark.parametrize(
    ("name", "epochs", "sparsity", "multiplier"),
    [
        ("imagenet_resnet50", [5, 30, 70, 90], 0.8, None),
        ("imagenet_mobilenet_v1", [8, 40, 75, 95], 0.75, 5),
        ("imagenet_mobilenet_v2", [8, 40, 75, 95], 0.75, 5),
    ],
)
def test_imagenet_has_the_steps_of_the_paper(name, epochs, sparsity, multiplier):
    config, sparse, model = settings(name)
    steps = config["trainer"]["max_steps"]
    assert steps == 32_000
    assert config.get("training_multiplier") == multiplier
    anchors = [imagenet_epoch(round(m * steps)) for m in (model["warmup"], *model["milestones"])]
    assert anchors == pytest.approx(epochs, abs=0.002)
    assert round(sparse["schedule"]["end"] * steps) == 25_000
    assert (sparse["sparsity"], sparse["drop_fraction"], sparse["schedule"]["interval"]) == (sparsity, 0.3, 100)
    assert (model["learning_rate"], model["learning_rate_decay"], model["weight_decay"]) == (1.6, 0.1, 1e-4)
    assert model["label_smoothing"] == 0.1
    data = config["data"]["init_args"]
    assert data["batch_size"] * config["trainer"]["accumulate_grad_batches"] * 8 == data["total_batch_size"] == 4096


def test_wrn_22_2_has_the_steps_of_the_paper():
    config, sparse, model = settings("cifar10_wrn22")
    steps = config["trainer"]["max_steps"]
    assert steps == 97_656
    assert round(sparse["schedule"]["end"] * steps) == 75_000
    assert [round(m * steps) for m in model["milestones"]] == [30_000, 60_000, 90_000]
    assert (model["learning_rate"], model["learning_rate_decay"], model["weight_decay"]) == (0.1, 0.2, 5e-4)
    assert (sparse["drop_fraction"], sparse["schedule"]["interval"]) == (0.3, 100)


def test_lenet_has_the_steps_of_the_authors_code():
    config, sparse, model = settings("mnist_lenet")
    steps = config["trainer"]["max_epochs"] * 600
    assert round(sparse["schedule"]["end"] * steps) == 50_000
    assert [round(m * steps / 600) for m in model["milestones"]] == [75, 95]


def test_the_char_gru_has_the_steps_of_the_paper():
    config, sparse, model = settings("char_gru")
    assert config["trainer"]["max_steps"] == 200_000
    assert config["trainer"]["gradient_clip_val"] == 10
    assert (sparse["sparsity"], sparse["drop_fraction"], sparse["schedule"]) == (
        0.75,
        0.1,
        {"interval": 100, "end": 1.0},
    )
    assert (model["learning_rate"], model["weight_decay"]) == (7e-4, 5e-4)


def test_threads_are_those_that_are_asked_for(command, capsys):
    torch.set_num_threads(2)
    command("inspect", "char_gru")
    assert torch.get_num_threads() == 2
    command("inspect", "digits")
    assert torch.get_num_threads() == 1
