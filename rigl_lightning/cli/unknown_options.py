"""Options that a command or a class does not have, and those that are probably meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rigl_lightning.base.suggestions import closest
from rigl_lightning.cli.given import TOP, Given, settings_of
from rigl_lightning.cli.suggestions import OTHER_PROGRAMS, nearest_path

_MOST = 12
"""Settings of a class that are listed."""
_ALIKE = 0.85
"""How much alike the last parts of two options are that may be meant for each other, see `difflib`."""


def unknown_option(line: str, options: Sequence[str], typed: Given, given: Sequence[str]) -> str | None:
    """An option that the command or the class has not, and the one that is probably meant."""
    option = re.search(
        r"[Oo]ption '([\w.-]+)' is not accepted|(?:Group '([\w.]+)')?[\w' ]* does not accept option '([\w.-]+)'"
        r"|[Uu]nrecognized arguments: (--?[\w.-]+)|ambiguous option: (--[\w.-]+)",
        line,
    )
    if option is None:
        return None
    in_class, group, in_group, unrecognized, ambiguous = option.groups()
    wrong = in_class or (f"{group}.{in_group}" if group else in_group) or unrecognized or ambiguous
    name = typed.whole(wrong.lstrip("-").replace("init_args.", "")) or wrong.lstrip("-")
    dashes = "--" if wrong.startswith("-") or any(arg.startswith(f"--{name}") for arg in given) else ""
    owner = typed.owner(name) if name.split(".")[0] in TOP else None
    known = [*(option.lstrip("-") for option in options), *typed.settings_of_classes()]
    meant = _meant(name, owner, known)
    of = f"a setting of {owner.__name__}" if owner else f"an option of {given[0] if given else 'the command'}"
    told = f"Expected {of}, got {dashes}{name}"
    if meant:
        return f"{told}. Did you mean {dashes + meant!r}?"
    place = name.rpartition(".")[0]
    if owner is None and place in ("model", "data"):
        return f"Expected a class for --{place}, got its setting {name.rpartition('.')[2]} only. Set --{place}."
    return f"{told}.{_listed(owner) if owner else ''}"


def _meant(name: str, owner: type | None, known: Sequence[str]) -> str | None:
    """The whole name of the setting that somebody meant who typed another."""
    place, _, last = name.rpartition(".")
    same = [other for other in known if other.endswith(f".{last}") and other != name]
    if owner is not None:
        alias = OTHER_PROGRAMS.get(last, "").rpartition(".")[2]
        own = alias if alias in settings_of(owner) else closest(last, settings_of(owner))
        return f"{place}.{own}" if own else next((other for other in same if other.startswith(f"{place}.")), None)
    beside = [other for other in same if place and _outer(_outer(other)) == _outer(place)]
    near = nearest_path(name, known) if place else None
    others = OTHER_PROGRAMS.get(last)
    return next(iter([*beside, *filter(None, [others, near]), *same]), None) or _alike(last, known)


def _outer(name: str) -> str:
    """``a.b`` of ``a.b.c``."""
    return name.rpartition(".")[0]


def _alike(last: str, known: Sequence[str]) -> str | None:
    """The first of the known names whose last part is spelt much as this one."""
    parts = {name.rpartition(".")[2]: name for name in reversed(known) if not name.endswith(("help", "+"))}
    close = closest(last, parts, _ALIKE)
    return parts[close] if close else None


def _listed(owner: type) -> str:
    names = settings_of(owner)
    if len(names) > _MOST:
        return ""
    return f" Its settings are {', '.join(names)}." if names else f" {owner.__name__} has no settings."
