"""Claims: what a class says of its methods, so that nobody has to compare methods to find out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class Claiming:
    """Base of classes that make claims: attributes that are true of the methods they were written with.

    A subclass that has a method of its own takes back what was claimed of the inherited one, unless it claims it, too.

    Attributes:
        claims: The attribute of each claim -> the methods it speaks of.

    >>> class Base(Claiming):
    ...     claims = {"is_fast": ("run",)}
    ...     is_fast = True
    ...     def run(self): ...
    >>> class Slow(Base):
    ...     def run(self): ...
    >>> class Fast(Base):
    ...     is_fast = True
    ...     def run(self): ...
    >>> Base.is_fast, Slow.is_fast, Fast.is_fast
    (True, False, True)
    """

    claims: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take back what other classes claimed of methods that are not theirs."""
        super().__init_subclass__(**kwargs)
        for claim, methods in cls.claims.items():
            order = [vars(kind) for kind in cls.__mro__]
            made = next(place for place, names in enumerate(order) if claim in names)
            if any(method in names for names in order[:made] for method in methods):
                setattr(cls, claim, False)
