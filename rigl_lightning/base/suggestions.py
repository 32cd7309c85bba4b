"""The known name that a user probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHORTEST = 3
"""Letters of a beginning that is taken for a name."""


def closest(wrong: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is the same but for capitals, or begins so, or is spelt much the same.

    Args:
        wrong: What was given.
        known: What there is.
        cutoff: How much the same, in [0, 1], see `difflib.get_close_matches`.
    """
    names = [name for name in known if name != wrong]
    same = [name for name in names if name.lower() == wrong.lower()]
    longer = [n for n in names if n.lower().startswith(wrong.lower())] if len(wrong) >= _SHORTEST else []
    close = same or sorted(longer, key=len) or difflib.get_close_matches(wrong, names, n=1, cutoff=cutoff)
    return close[0] if close else None


def with_suggestion(line: str, wrong: str, known: Iterable[str]) -> str:
    """The line, and the known name that is closest to the wrong one, if any is close.

    >>> with_suggestion("Expected a class, got 'mnist'", "mnist", ["MNISTDataModule", "LeNet"])
    "Expected a class, got 'mnist'. Did you mean 'MNISTDataModule'?"
    """
    close = closest(wrong, known)
    return f"{line}. Did you mean {close!r}?" if close else f"{line}."
