"""Every guarantee names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
LINES = [
    line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| Guarantee", "| What |"))
]


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_exists(file, name):
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^ *def {name}\(", source, re.MULTILINE), f"{file} has no {name}"


@pytest.mark.parametrize("line", LINES, ids=[line[2:40] for line in LINES])
def test_every_line_names_one(line):
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", line)


def test_the_page_is_read():
    assert len(LINES) > 60
    assert ("tests/trainer/test_refusals.py", "test_lbfgs") in NAMED
