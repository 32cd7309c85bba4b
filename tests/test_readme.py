"""Every Python block of the README and of docs/ runs, and every command and file they name is one that exists."""

import re
from pathlib import Path

import pytest

from rigl_lightning.cli import SparseCLI
from rigl_lightning.sparsity import algorithms

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
BLOCKS = [(name, code) for name, text in PAGES.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize(("page", "code"), BLOCKS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(BLOCKS)])
def test_a_block_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_files_of_a_page_exist(page):
    text = PAGES[page]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"python -m rigl_lightning ([a-z]+)", text):
        assert command in SparseCLI.subcommands(), command
    for path in re.findall(r"(?:configs|tests|paper|rigl_lightning)/[\w/]+\.(?:yaml|py)", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(name)), name


def test_the_page_of_methods_names_every_algorithm():
    public = {name for name in algorithms.__all__ if isinstance(getattr(algorithms, name), type)}
    missing = {name for name in public if f"`{name}`" not in PAGES["methods.md"]}
    assert missing == {"SparseAlgorithm"}
