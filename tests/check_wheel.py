"""Uses an installed wheel as a stranger would, without the repository: ``make test-wheel`` runs it.

python check_wheel.py REPOSITORY
"""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import torch

import rigl_lightning
from rigl_lightning.kernels import SparsePattern, available, sparse_linear, use_tier

SMALL = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--data.batch_size=2", "--data.sequence_length=16")


def check_contents(repository: Path) -> None:
    """Every file of the package, every configuration, the types' marker, and nothing else."""
    (wheel,) = Path.cwd().glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = repository / "rigl_lightning"
    expected = {f"rigl_lightning/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    configs = repository / "configs"
    expected |= {f"rigl_lightning/configs/{path.relative_to(configs).as_posix()}" for path in configs.rglob("*.yaml")}
    expected.add("rigl_lightning/py.typed")
    assert held == expected, sorted(held ^ expected)


def check_kernels() -> None:
    """Both tiers compute what the dense layer computes."""
    torch.manual_seed(0)
    mask = torch.rand(30, 20) < 0.2
    weight, x = torch.randn(30, 20) * mask, torch.randn(4, 20)
    assert "fast" in available(), available()
    for tier in available():
        with use_tier(tier):
            torch.testing.assert_close(sparse_linear(x, weight, None, SparsePattern.from_mask(mask)), x @ weight.T)


def check_command() -> None:
    """The console command lists the configurations, and trains one that needs no download."""
    command = Path(sys.executable).with_name("rigl-lightning")
    listed = subprocess.run([command, "configs"], check=True, capture_output=True, text=True).stdout
    assert "char_gru" in listed, listed
    environment = {**os.environ, "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    subprocess.run([command, "fit", "--config", "char_gru", *SMALL], check=True, env=environment)
    assert Path("runs/char_gru/version_0/checkpoints/last.ckpt").is_file()


def main() -> None:
    repository = Path(sys.argv[1]).resolve()
    assert "site-packages" in rigl_lightning.__file__, rigl_lightning.__file__
    assert version("rigl-lightning") == rigl_lightning.__version__
    check_contents(repository)
    check_kernels()
    check_command()
    print("the wheel works without the repository")


if __name__ == "__main__":
    main()
