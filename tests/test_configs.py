"""Every configuration says what it should, and trains with every algorithm."""

from pathlib import Path

import pytest
import torch
import yaml

from rigl_lightning.cli import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
ALGORITHMS = ["Dense", "Static", "SNIP", "SET", "SNFS", "RigL", "GradualMagnitudePruning"]


@pytest.fixture
def data_args(request, cifar_root, mnist_root):
    """Flags that give a configuration tiny data of its own kind, and quiet, short training."""
    return {
        "cifar10_wrn22": ["--data.root", str(cifar_root), "--data.batch_size", "2"],
        "mnist_lenet": ["--data.root", str(mnist_root), "--data.batch_size", "2"],
        "char_gru": ["--data.sequence_length", "16", "--data.batch_size", "2", "--trainer.val_check_interval", "2"],
    }


def run(monkeypatch, folder, path, *args, command="fit"):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    torch.set_num_threads(1)
    main([command, "--config", str(path), "--trainer.accelerator", "cpu", *args])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_trains_with_every_algorithm(path, algorithm, data_args, tmp_path, monkeypatch):
    args = ["--sparse.algorithm", algorithm, "--trainer.max_steps", "3", "--trainer.limit_val_batches", "1"]
    run(monkeypatch, tmp_path, path, *data_args[path.stem], *args, "--trainer.enable_progress_bar", "false")
    last = torch.load(tmp_path / f"runs/{path.stem}/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_head_of_a_configuration_gives_the_command_and_what_to_expect(path):
    head = path.read_text(encoding="utf-8").split("\nseed_everything")[0]
    assert f"python -m rigl_lightning fit --config configs/{path.name}" in head
    assert "Expected" in head
    assert "Device-hours" in head


def settings(name):
    config = yaml.safe_load((CONFIGS[0].parent / f"{name}.yaml").read_text(encoding="utf-8"))
    return config, config["sparse"]["algorithm"]["init_args"], config["model"]["init_args"]


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
