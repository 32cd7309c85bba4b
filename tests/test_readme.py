"""Every Python block of the README and of docs/ runs, and every command and file they name is one that exists."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from rigl_lightning.cli.app import SparseCLI, main
from rigl_lightning.cli.configs import with_config_paths
from rigl_lightning.sparsity import algorithms
from rigl_lightning.sparsity.masks import drop_and_grow
from rigl_lightning.sparsity.scores import Connections

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = {page.relative_to(ROOT).as_posix().removeprefix("docs/"): page.read_text(encoding="utf-8") for page in FILES}
BLOCKS = [(name, code) for name, text in PAGES.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
COMMAND = re.compile(
    r"^(?:rigl-lightning|python -m rigl_lightning) +((?:fit|validate|test|predict|inspect|export) .*)$", re.MULTILINE
)
COMMANDS = [
    (
        name,
        re.sub(
            r"runs/(\w+)/version_\w+/config.yaml",
            r"\1",
            command.split("#")[0].replace("NAME", "char_gru").replace("--print_config", ""),
        ),
    )
    for name, text in PAGES.items()
    for block in re.findall(
        r"```bash\n(.*?)```|`((?:rigl-lightning|python -m rigl_lightning) [^`\n]*)`", text, re.DOTALL
    )
    for command in COMMAND.findall("".join(block))
]
OWN_FILES = ("digits.yaml", "mine.yaml")  # written out on their pages; test_methods_after_rigl.py runs the former


@pytest.fixture(scope="module")
def parser():
    """The command line's own parser, made once."""

    class FoundError(Exception):
        pass

    def found(self, parser, args):
        raise FoundError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseCLI, "parse_arguments", found)
        with pytest.raises(FoundError) as caught:
            main(["fit"])
    return caught.value.args[0]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)])
def test_a_command_is_one_that_the_command_line_understands(page, command, parser, tmp_path, monkeypatch):
    if any(name in command for name in OWN_FILES):
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine.py").write_text("def balanced_grow(c):\n    return c.grad.abs()\n")
    parser.parse_args(with_config_paths(shlex.split(command)))


@pytest.mark.parametrize(("page", "code"), BLOCKS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(BLOCKS)])
def test_a_block_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").symlink_to(ROOT / "paper")  # for pages that read the committed results
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_files_of_a_page_exist(page):
    text = PAGES[page]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"(?:python -m rigl_lightning|rigl-lightning) (fit|\w*(?= --config))", text):
        assert command in SparseCLI.subcommands(), command
    for path in re.findall(r"(?:configs|tests|paper|notebooks|rigl_lightning)/[\w/]+\.(?:yaml|py)", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(name)), name


def test_the_page_of_methods_names_every_algorithm():
    public = {name for name in algorithms.__all__ if isinstance(getattr(algorithms, name), type)}
    missing = {name for name in public if f"`{name}`" not in PAGES["methods.md"]}
    assert missing == {"SparseAlgorithm"}


CRITERIA = [(page, code) for page, code in BLOCKS if "def balanced_grow" in code]


def test_every_page_with_a_criterion_of_ones_own_is_known():
    own = {page for page, code in BLOCKS if re.search(r"def \w+\(c\b", code)}
    assert own == {page for page, _ in CRITERIA} == {"command_line.md", "contributing.md", "cards/DropGrow.md"}


@pytest.mark.parametrize(("page", "code"), CRITERIA, ids=[page for page, _ in CRITERIA])
def test_a_criterion_of_a_page_changes_masks_as_its_sentence_says(page, code):
    """\"Grow by gradient, and sooner in units that have few connections\": three units, with 4, 1 and 0 connections."""
    names = {}
    exec(compile(code, page, "exec"), names)
    mask = torch.tensor([[True] * 4 + [False], [True] + [False] * 4, [False] * 5])
    gradient = torch.tensor([[0.0, 0, 0, 0, 4.0], [0.0, 3.0, 0, 0, 0], [1.4, 0.1, 0, 0, 0]])
    layer = Connections(mask.float(), mask, dense_grad=gradient)
    ours = drop_and_grow(mask, mask.float(), names["balanced_grow"](layer), 0)  # shapes fit
    assert torch.equal(ours, mask)
    for score, grown in (
        (gradient.abs(), [(0, 4), (1, 1)]),
        (names["balanced_grow"](layer), [(1, 1), (2, 0)]),  # 4 / 5 < 1.4 / 1 < 3 / 2
    ):
        new = torch.zeros_like(mask).view(-1)
        candidates = torch.where(mask, -torch.inf, score).view(-1)
        new[candidates.topk(2).indices] = True
        assert sorted(map(tuple, new.view_as(mask).nonzero().tolist())) == grown
    image = torch.rand(4, 3, 2, 2)  # a convolution's weight, too
    assert names["balanced_grow"](Connections(image, image > 0.5, dense_grad=image)).shape == image.shape


def test_the_numbers_of_readme_stand_on_the_pages_it_links():
    rows = [line for line in PAGES["README.md"].splitlines() if line.startswith("| **")]
    bold = {row: re.findall(r"\*\*([\d.]+)(?: GiB)?\*\*", row) for row in rows}
    page = {row: re.search(r"\(docs/([\w/]+\.md)\)", row) for row in rows}
    memory, speed, exactness, _ = rows
    for row in (memory, speed):
        for number in bold[row]:
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", PAGES[page[row][1]]), number
    guarantees = [line for line in PAGES["guarantees.md"].splitlines() if re.match(r"\| .*`tests/", line)]
    trainings, at_least = map(int, bold[exactness])
    assert trainings == len(list((ROOT / "tests/golden").glob("*.npz")))
    assert at_least <= len(guarantees) < at_least + 20
