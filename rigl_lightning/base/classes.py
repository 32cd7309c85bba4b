"""Classes that are derived from one."""

from __future__ import annotations


def subclasses(base: type) -> set[type]:
    """All classes that are derived from this one, at any depth; not itself.

    >>> class A: ...
    >>> class B(A): ...
    >>> class C(B): ...
    >>> subclasses(A) == {B, C}
    True
    """
    direct: list[type] = type.__subclasses__(base)
    return {*direct, *(kind for child in direct for kind in subclasses(child))}
