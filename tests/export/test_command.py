"""``python -m rigl_lightning export``: a checkpoint of a training to a file, and what it says when it cannot."""

from pathlib import Path

import pytest
import torch

from rigl_lightning.cli import main
from rigl_lightning.export import read_compact
from rigl_lightning.models import LeNet300100
from rigl_lightning.modules import ImageClassifier

CONFIG = """
seed_everything: 0
trainer:
  max_steps: 4
  limit_val_batches: 0
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {dirpath: checkpoints, save_last: true, every_n_train_steps: 4}
model:
  class_path: rigl_lightning.modules.ImageClassifier
  init_args:
    model:
      class_path: rigl_lightning.models.LeNet300100
      init_args: {in_features: 64}
    num_classes: 10
    input_shape: [1, 8, 8]
data:
  class_path: rigl_lightning.data.DigitsDataModule
sparse:
  algorithm:
    class_path: rigl_lightning.Static
    init_args: {sparsity: 0.95}
"""
LAST = "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("net.yaml").write_text(CONFIG, encoding="utf-8")
        main(["fit", "--config", "net.yaml"])
        main(
            [
                "fit",
                "--config",
                "net.yaml",
                "--sparse.algorithm",
                "Dense",
                "--trainer.callbacks.init_args.dirpath",
                "dense",
            ]
        )
    return folder


@pytest.fixture(autouse=True)
def folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])


def export(*args):
    main(["export", "--config", "net.yaml", *args])


def test_a_compact_file(capsys):
    export("--ckpt_path", LAST, "--output", "net.pt")
    state, masks = read_compact("net.pt")
    saved = torch.load(LAST, weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    assert sum(int(m.sum()) for m in masks.values()) == round(0.05 * sum(m.numel() for m in masks.values()))
    ImageClassifier(LeNet300100(64), num_classes=10, input_shape=(1, 8, 8)).load_state_dict(state)
    printed = capsys.readouterr().out
    assert "density 0.0500" in printed
    assert "times as fast" in printed
    assert f"{Path('net.pt').stat().st_size:,} bytes" in printed


def test_a_dense_state_dict():
    export("--ckpt_path", LAST, "--output", "dense.pt", "--format", "state_dict", "--batch_size", "4")
    saved = torch.load(LAST, weights_only=True)["state_dict"]
    written = torch.load("dense.pt", weights_only=True)
    assert all(torch.equal(written[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ckpt_path", "none.ckpt", "--output", "a.pt"], "none.ckpt"),
        (["--ckpt_path", "dense/last.ckpt", "--output", "a.pt"], "Expected a sparse network"),
        (
            ["--ckpt_path", "weights.ckpt", "--output", "a.pt"],
            "A checkpoint of weights alone (`save_weights_only=True`) has none",
        ),
        (["--ckpt_path", LAST, "--output", "nowhere/a.pt"], "Set --output"),
        (["--ckpt_path", LAST, "--output", "checkpoints"], "got the folder checkpoints. Set --output"),
        (["--ckpt_path", LAST, "--output", "a.pt", "--batch_size", "0"], "Set --batch_size"),
        (["--ckpt_path", LAST, "--output", "a.pt", "--format", "csv"], "format"),
        (["--ckpt_path", LAST, "--output", "a.onnx"], "Set --format onnx"),
        (["--ckpt_path", LAST], "output"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(args, message, capsys):
    content = torch.load(LAST, weights_only=True)
    torch.save({**content, "callbacks": {}}, "weights.ckpt")
    with pytest.raises(SystemExit) as end:
        export(*args)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("a.pt").exists()
