"""The guide docs/methods_after_rigl.md runs as it stands: its Python, its files and its commands."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from rigl_lightning.cli import main

GUIDE = (Path(__file__).parents[1] / "docs" / "methods_after_rigl.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL))
COMMANDS = re.findall(r"python -m rigl_lightning (.*)", GUIDE)
STRUCTURE = ["--sparse.algorithm.structure"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rigl_lightning"])
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    torch.set_num_threads(1)


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_a_block_of_the_guide_runs(code):
    exec(compile(code, "methods_after_rigl.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide_runs(command):
    main(shlex.split(command))


def test_the_tests_that_the_guide_names_exist():
    root = Path(__file__).parents[1]
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "tests" / "sparsity").glob("*.py"))
    for name in re.findall(r"`((?:test_\w+|Test\w+))`", GUIDE):
        assert re.search(rf"(def|class) {name}\b", text), name
    for path in re.findall(r"`(tests/\S+?\.py)`", GUIDE):
        assert (root / path).is_file(), path
    assert len(FILES) == 2
    assert len(COMMANDS) == 8


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([*STRUCTURE, "NN"], "Expected --sparse.algorithm.structure to be one of Blocks, ConstantFanIn, NM"),
        ([*STRUCTURE, "NM"], "got 0.8911 in 'model.1.weight'. Set --sparse.algorithm.sparsity to 0.5"),
        (
            [*STRUCTURE, "NM", "--sparse.algorithm.structure.n", "4"],
            "and --sparse.algorithm.structure.m",
        ),
        ([*STRUCTURE, "Blocks"], "'model.5.weight' to be multiples of (4, 4)"),
        ([*STRUCTURE, "ConstantFanIn", "--sparse.algorithm.structure.never_ablate", "[modle.3]"], "Did you mean"),
        (
            ["--sparse.algorithm", "SNIP", *STRUCTURE, "NM"],
            "Expected a setting of SNIP, got --sparse.algorithm.structure.",
        ),
        (["--sparse.algorithm", "GraNet", "--sparse.algorithm.ramp_end", "100"], "Set --sparse.algorithm.ramp_end"),
        (["--sparse.algorithm", "GraNet", "--sparse.algorithm.sparsity", "0.4"], "`initial_sparsity` in [0, 0.4]"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(capsys, args, expected):
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", "--config", "digits.yaml", *args])
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
