"""Writes what the pages of docs/ say of the code itself: the settings of each method.

    python docs/generate.py

What is measured there comes from ``paper/make_figures.py``.

Every part stands between the markers of a page; the sentences around it are written by hand. A test compares.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from paper.tables.markdown import markdown, with_parts
from rigl_lightning.base.files import write_text
from rigl_lightning.sparsity import algorithms
from rigl_lightning.sparsity.algorithms import describe

HERE = Path(__file__).parent


def card_of(name: str) -> Path:
    """The page of a method."""
    return HERE / "cards" / f"{name}.md"


def methods_with_a_card() -> list[Any]:
    """Every algorithm that can be used as it is."""
    found = [getattr(algorithms, name) for name in algorithms.__all__]
    return [method for method in found if inspect.isclass(method) and not inspect.isabstract(method)]


def settings(method: Any) -> str:
    """Table of a method's settings: name, default, and what its docstring, or that of a base, says of it."""
    meanings = {name: text for base in reversed(method.__mro__) for name, text in _attributes(base)}
    body = [[f"`{f.name}`", _default(f), meanings.get(f.name, "")] for f in fields(method) if f.init]
    return markdown(["setting", "default", "meaning"], body) if body else "It has no settings.\n"


def _attributes(base: type) -> Iterator[tuple[str, str]]:
    """Names and meanings under ``Attributes:`` of a class's own docstring."""
    text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
    section = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    for entry in re.finditer(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE):
        yield entry[1], " ".join(entry[2].split()).replace("|", "\\|")


def _default(setting: Field[Any]) -> str:
    if setting.default is not MISSING:
        return f"`{describe(setting.default)}`"
    if setting.default_factory is not MISSING:
        return f"`{describe(setting.default_factory())}`"
    return "to be given"


def parts() -> dict[Path, dict[str, str]]:
    """Every generated part, by page and name of its markers."""
    return {card_of(m.__name__): {"settings": settings(m)} for m in methods_with_a_card()}


def main() -> None:
    for page, parts_of_page in parts().items():
        before = page.read_text(encoding="utf-8")
        after = with_parts(before, parts_of_page)
        if after != before:
            write_text(page, after)
            print(f"written: {page.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
