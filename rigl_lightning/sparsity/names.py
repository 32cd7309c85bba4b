"""Layer names: which of them a user's pattern means, and a helpful error when none is meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from rigl_lightning.base.errors import SettingError

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What data parallelism, averaged models, torch.compile and checkpointing put into names."""


def matching_names(pattern: str, names: Iterable[str], setting: str) -> list[str]:
    """Parameter names that a shell-style pattern selects.

    A pattern may give the parameter (``"fc.weight"``, ``"layer4.*"``), the module that owns it (``"fc"``), or a module
    that contains it (``"encoder"``), which means all that is in it. What is first in this order is meant.

    Args:
        pattern: Shell-style pattern, case sensitive.
        names: Parameter names, as in ``module.named_parameters()``.
        setting: Where the user wrote the pattern; the error names it.

    Raises:
        ValueError: If the pattern is no text or selects nothing; the message lists the closest names.

    >>> matching_names("fc*", ["conv.weight", "fc1.weight", "fc2.weight"], "exclude")
    ['fc1.weight', 'fc2.weight']
    >>> matching_names("encoder", ["encoder.0.fc.weight", "head.weight"], "include")
    ['encoder.0.fc.weight']
    """
    if not isinstance(pattern, str):
        raise SettingError(f"Expected `{setting}` to have patterns of names, got {pattern!r}. Correct `{setting}`.")
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(module_of(name), pattern)]
    found = found or [name for name in names if any(fnmatchcase(part, pattern) for part in _containers(name))]
    if not found:
        raise SettingError(
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


def _containers(name: str) -> list[str]:
    """Names of the modules that contain a parameter, from its owner outwards."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def clean_name(name: str) -> str:
    """Parameter name without the marks that torch.compile leaves in it."""
    return name.replace("_orig_mod.", "")


def same_tensors(names: Iterable[str], known: Iterable[str]) -> dict[str, str] | None:
    """The names of the same tensors in another module: a wrapped one, or one that has the network as an attribute.

    Args:
        names: Of tensors.
        known: All names of the other module.

    Returns:
        The other module's name of each, or None if one has none. All differ by one prefix, and by what wrappers put in.

    >>> same_tensors(["fc.weight"], ["module.net.fc.weight", "module.net.fc.bias"])
    {'fc.weight': 'module.net.fc.weight'}
    """
    names, known = list(names), list(known)
    for form in (clean_name, _unwrapped):
        forms = {form(name): name for name in known}
        if len(forms) < len(known):
            continue
        own = [form(name) for name in names]
        for rename in _renamings(own[0] if own else "", forms):
            found = [forms.get(rename(name)) for name in own]
            if None not in found:
                return {name: other for name, other in zip(names, found, strict=True) if other is not None}
    return None


def folded(names: Sequence[str]) -> str:
    """One name for layers that are alike: numbers that differ become a star, and a count goes first.

    >>> folded(["blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight", "blocks.2.mlp.fc1.weight"])
    '3 x blocks.*.mlp.fc1.weight'
    >>> folded(["head.weight"])
    'head.weight'
    """
    parts = zip(*(name.split(".") for name in names), strict=True)
    name = ".".join(part[0] if len({*part}) == 1 else "*" for part in parts)
    return name if len(names) == 1 else f"{len(names)} x {name}"


def without_numbers(name: str) -> str:
    """What names of layers share that `folded` may put together.

    >>> without_numbers("blocks.10.mlp.0.weight")
    'blocks.*.mlp.*.weight'
    """
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _renamings(first: str, known: Iterable[str]) -> Iterator[Callable[[str], str]]:
    """Ways to rename: as it is, with a prefix that some known name has, without one that no known name has."""
    yield str
    for other in known:
        if other.endswith(f".{first}"):
            longer = other.removesuffix(first)
            yield lambda name, longer=longer: longer + name  # type: ignore[misc]
        if first.endswith(f".{other}"):
            prefix = first.removesuffix(other)
            yield lambda name, prefix=prefix: name.removeprefix(prefix)  # type: ignore[misc]


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _suggestion(pattern: str, names: Sequence[str]) -> str:
    known = [*names, *dict.fromkeys(part for name in names for part in _containers(name))]
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"Known are, for example: {', '.join(names[:5]) or 'none'}."
