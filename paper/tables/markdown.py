"""Tables as markdown, and their places in a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def mean_and_spread(row: Any) -> str:
    """Mean and standard deviation of a row of `paper.figures.data.summary`; of a single run there is no deviation."""
    return f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.n > 1 else "")


def with_parts(page: str, parts: dict[str, str]) -> str:
    """The page with everything between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` replaced by the part.

    Raises:
        ValueError: If the page lacks the markers of a part.
    """
    for name, text in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if begin not in page or end not in page:
            raise ValueError(f"Expected the markers {begin.strip()} and {end} in the page, found them not.")
        before, rest = page.split(begin, 1)
        page = before + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1]
    return page
