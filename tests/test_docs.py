"""The documentation site: every page has its place, every link its target, and what is written by machine is of now."""

import importlib.util
import json
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paper.tables.markdown import with_parts

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate, site_pages = load("generate"), load("site_pages")


def nav_pages(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else nav_pages(value)


def anchor(heading):
    """Of a heading, as Python-Markdown makes it."""
    kept = re.sub(r"[^\w\s-]", "", heading.replace("`", "").encode("ascii", "ignore").decode()).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def anchor_on_github(heading):
    """Each space becomes a hyphen, also at the end, where what followed it went."""
    return re.sub(r"[^\w -]", "", heading.replace("`", "").lower()).replace(" ", "-")


def test_every_page_has_one_place_in_the_navigation_of_mkdocs_yml():
    nav = list(nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    made = [path for path in site_pages.generated_pages() if path.endswith(".md")]
    assert sorted(nav) == sorted([*PAGES, *made])


def test_a_notebook_is_a_page_with_its_pictures_and_folded_set_up():
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["import a"], "metadata": {"tags": ["setup"]}, "outputs": []},
        {
            "cell_type": "code",
            "source": ["f()"],
            "metadata": {},
            "outputs": [{"text": ["3\n"]}, {"data": {"image/png": "AAAA", "text/plain": "<Figure>"}}],
        },
    ]
    pages = site_pages.notebook_pages("09_name", {"cells": cells})
    text = pages["notebooks/09_name.md"]
    assert text.startswith("# Title\n")
    assert text.index("<details") < text.index("import a") < text.index("</details>") < text.index("f()")
    assert "```text\n3\n```" in text
    assert "![output](09_name_1.png)" in text
    assert pages["notebooks/09_name_1.png"] == b"\0\0\0"


def test_set_up_of_notebooks_is_folded_and_each_ends_with_what_to_try_next():
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        first = re.split(r"^# %%", text, flags=re.MULTILINE)[2]
        assert '"source_hidden": true' in first.splitlines()[0], source.name
        assert "## What to try next" in re.split(r"^# %%", text, flags=re.MULTILINE)[-1], source.name


LINKING = [*(f"docs/{page}" for page in PAGES), "README.md", "CHANGELOG.md", "benchmarks/README.md", "paper/README.md"]


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_to_pages_and_headings(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)):
        if not target.startswith("http"):
            path, _, wanted = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.exists(), target
            if wanted:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert wanted in map(anchor, headings), target
                assert wanted in map(anchor_on_github, headings), target


DOCUMENTED = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", (DOCS / page).read_text(), re.MULTILINE)]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_pages_of_the_api_document_is_there(name):
    if ".huggingface." in name:
        pytest.importorskip("transformers")
    assert pydoc.locate(name) is not None


@pytest.mark.parametrize("method", generate.methods_with_a_card(), ids=lambda method: method.__name__)
def test_every_method_has_a_card_that_says_what_its_code_says(method):
    page = generate.card_of(method.__name__)
    text = page.read_text(encoding="utf-8")
    remedy = "Write it anew with: python docs/generate.py"
    assert with_parts(text, generate.parts()[page]) == text, remedy
    for heading in ("## When it helps", "## Cost of a step", "## Settings", "## How to call it"):
        assert heading in text
    assert f"--sparse.algorithm {method.__name__}" in text
    assert "Sparsifier.attach(model, optimizer, algorithm" in text or "before_step" in text, "masks would not hold"
    if "methods.md#what-is-reproduced" in text:
        table = (DOCS / "methods.md").read_text(encoding="utf-8").split("## What is reproduced")[1].split("\n## ")[0]
        assert f"`{method.__name__}`" in table, "the card leads to a table without its method"


def test_every_setting_of_a_method_has_a_meaning():
    for method in generate.methods_with_a_card():
        assert not re.search(r"\|  \|$", generate.settings(method), re.MULTILINE), method.__name__


SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def cells_of_source(text):
    """Code and text of the cells of a percent script."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    for kind, body in zip(parts[::2], parts[1::2], strict=True):
        uncommented = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if "markdown" in kind else body
        yield uncommented.strip().replace("# %matplotlib", "%matplotlib")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_is_its_source_executed(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]).strip() for cell in notebook["cells"]]
    assert cells == list(cells_of_source(source.read_text(encoding="utf-8"))), "Run: python notebooks/make.py"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert "image/png" in json.dumps(notebook)


def test_the_notebook_that_reads_the_results_can_read_those_of_now(tmp_path):
    source = ROOT / "notebooks" / "04_reading_the_results.py"
    of_notebooks = {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, source], check=True, cwd=tmp_path, env={**os.environ, **of_notebooks})
