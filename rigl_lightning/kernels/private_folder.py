"""A folder for compiled kernels that nobody else can write to: what is read from it is run."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

VARIABLE = "RIGL_LIGHTNING_CACHE"
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def private_folder() -> Path:
    """The user's own folder, made if it is missing: ``$RIGL_LIGHTNING_CACHE``, or one in the user's cache.

    Raises:
        OSError: If there is none, it cannot be made, or another user could write to it or exchange it.
    """
    folder = _wanted()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    if os.name == "posix":
        _refuse_shared(folder)
    return folder


def read_private(path: Path) -> bytes:
    """Content of a file that is the user's own.

    Raises:
        OSError: If there is none, or another user owns it or could write to it.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if os.name == "posix" and (found.st_uid != os.geteuid() or found.st_mode & _BY_OTHERS):
            raise PermissionError(f"{path} could have been written by another user")
        return file.read()


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only the user can read; it appears under its name when it is complete.

    Raises:
        OSError: If it cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent)  # readable by the user alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _wanted() -> Path:
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError:
        raise FileNotFoundError("the user has no home folder") from None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "rigl-lightning"


def _refuse_shared(folder: Path) -> None:
    """Raise where another user than root could write to the folder."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & _BY_OTHERS:
        raise PermissionError(f"another user could write to {folder}")
    _refuse_ancestors(folder)


def _refuse_ancestors(folder: Path) -> None:
    """Raise where another user than root could put another folder in its place."""
    user = os.geteuid()
    for path in folder.parents:
        found = path.stat()
        # A group of the user's own number has no other members. In a folder with the sticky bit, such as /tmp, nobody
        # can exchange what is another's.
        others = stat.S_IWOTH if found.st_gid in (0, user) else _BY_OTHERS
        if found.st_uid not in (0, user) or (found.st_mode & others and not found.st_mode & stat.S_ISVTX):
            raise PermissionError(f"another user could write to {path}")
