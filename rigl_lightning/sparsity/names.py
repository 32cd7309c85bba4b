"""Layer names: which of them a user's pattern means, and a helpful error when none is meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def matching_names(pattern: str, names: Iterable[str], setting: str) -> list[str]:
    """Parameter names that a shell-style pattern selects.

    A pattern may give the parameter (``"fc.weight"``, ``"layer4.*"``) or the module that owns it (``"fc"``).

    Args:
        pattern: Shell-style pattern, case sensitive.
        names: Parameter names, as in ``module.named_parameters()``.
        setting: Where the user wrote the pattern; the error names it.

    Raises:
        ValueError: If the pattern selects nothing; the message lists the closest names.

    >>> matching_names("fc*", ["conv.weight", "fc1.weight", "fc2.weight"], "exclude")
    ['fc1.weight', 'fc2.weight']
    """
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(module_of(name), pattern)]
    if not found:
        raise ValueError(
            f"Expected `{setting}` to name sparse layers, but {pattern!r} matches none. {_suggestion(pattern, names)} "
            f"Correct `{setting}`."
        )
    return found


def module_of(name: str) -> str:
    """Name of the module that owns a parameter.

    >>> module_of("layer1.0.conv1.weight")
    'layer1.0.conv1'
    """
    return name.rpartition(".")[0]


def clean_name(name: str) -> str:
    """Parameter name without the marks that torch.compile leaves in it."""
    return name.replace("_orig_mod.", "")


def _suggestion(pattern: str, names: Sequence[str]) -> str:
    known = [*names, *map(module_of, names)]
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"Known are, for example: {', '.join(names[:5]) or 'none'}."
