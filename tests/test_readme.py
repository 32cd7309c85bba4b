"""Every Python block of the README runs, and every command of it is one that exists."""

import re
from pathlib import Path

import pytest

from rigl_lightning.cli import SparseCLI

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_a_block_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_commands_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"python -m rigl_lightning ([a-z]+)", README):
        assert command in SparseCLI.subcommands(), command
    for path in re.findall(r"(?:configs|tests|paper|rigl_lightning)/[\w/]+\.(?:yaml|py)", README):
        assert (ROOT / path).is_file(), path
