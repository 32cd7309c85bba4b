"""Files on this machine and on remote file systems; one that takes another's place is whole or not there."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rigl_lightning.base.errors import FullDiskError, MissingFileError, SettingError

REMOTE = "://"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Numbers of errors of a disk, a quota or a limit that is full."""


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A stream to write a file through, which takes the place of ``path`` when the block has ended well.

    Args:
        path: On this machine, in a folder that exists, or an address of fsspec (``s3://...``, ``memory://...``).

    Raises:
        FullDiskError: If the disk is full, saying that what was at ``path`` is kept.
        MissingFileError: See `written_beside`.
    """
    with written_beside(path) as unfinished:
        raw = _File(unfinished, "wb")
        try:
            with io.BufferedWriter(raw) as stream:
                yield stream
        except Exception as error:
            # torch.save reports a failed write as an error of its archive.
            if raw.failure is not None and raw.failure.errno in NO_ROOM:
                raise FullDiskError(raw.failure.errno, full_disk(path, raw.failure)) from error
            raise


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """`replacing` for who wants a file name to write to, and not a stream.

    The file is forced to disk and then renamed, which happens at once or not at all; a process that is killed before
    leaves what was there. Several processes may not write the same file at once. A remote file is written here first
    and then copied, and how whole a copy is when it breaks off is up to the remote file system.

    Raises:
        MissingFileError: If the file's folder on this machine does not exist.
    """
    target = local(path)
    if target is None:
        with tempfile.TemporaryDirectory() as folder:
            unfinished = Path(folder, "file")
            yield unfinished
            fs, inner = filesystem(path)
            fs.makedirs(fs._parent(inner), exist_ok=True)
            fs.put_file(str(unfinished), inner)
        return
    if target.exists() and not target.is_file():  # /dev/stdout; a folder is an error of the writer
        yield target
        return
    if not target.parent.is_dir():
        raise MissingFileError(f"Expected a folder {target.parent} to write {target.name} to, found none. Create it.")
    unfinished = target.with_name(f".{target.name}.unfinished")  # the next of this name is written over a leftover
    try:
        yield unfinished
        _force_to_disk(unfinished)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _force_to_disk(target.parent)  # the name of a new file is in its folder, which is written on its own


def write_text(path: str | Path, text: str) -> None:
    """Put a text (UTF-8, line breaks as they are) in the place of a file."""
    with replacing(path) as stream:
        stream.write(text.encode())


def open_file(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        FileNotFoundError: If there is none.
    """
    here = local(path)
    if here is not None:
        return here.open("rb")
    fs, inner = filesystem(path)
    stream: BinaryIO = fs.open(inner, "rb")
    return stream


def is_file(path: str | Path) -> bool:
    """Whether a file is there."""
    here = local(path)
    if here is not None:
        return here.is_file()
    fs, inner = filesystem(path)
    return bool(fs.isfile(inner))


def make_folder(path: str | Path) -> None:
    """Make the folder of a file; a remote one is made when the file is written."""
    here = local(path)
    if here is not None:
        here.parent.mkdir(parents=True, exist_ok=True)


def check_place(path: str | Path, remedy: str, read: str | Path | None = None) -> None:
    """Refuse a file that should not, or on this machine could not, be written; a remote folder is made when needed.

    Args:
        path: The file to write.
        remedy: The setting to change.
        read: A file that is read for it, and must not be lost.

    Raises:
        FileNotFoundError: If there is no folder for it.
        ValueError: If it is a folder itself, or the file that is read.
    """
    if read is not None and is_file(path) and is_file(read) and fingerprint(path) == fingerprint(read):
        raise SettingError(f"Expected a new file to write, got {path}, which is read and would be lost. {remedy}")
    here = local(path)
    if here is not None and here.is_dir():
        raise SettingError(f"Expected a file to write, got the folder {path}. {remedy}")
    if here is not None and not here.resolve().parent.is_dir():
        raise MissingFileError(f"Expected a folder for {path}, found none. {remedy}")


def size(path: str | Path) -> int:
    """Bytes of a file."""
    here = local(path)
    if here is not None:
        return here.stat().st_size
    fs, inner = filesystem(path)
    return int(fs.size(inner))


def modified(path: str | Path) -> float:
    """When a file was written, in seconds since 1970."""
    here = local(path)
    if here is not None:
        return here.stat().st_mtime
    fs, inner = filesystem(path)
    return float(fs.modified(inner).timestamp())


def fingerprint(path: str | Path) -> str:
    """What changes if a file is written again."""
    here = local(path)
    if here is not None:
        state = here.stat()
        return f"{here.resolve()} {state.st_mtime_ns} {state.st_size}"
    fs, inner = filesystem(path)
    return str(fs.ukey(inner))


def matching(folder: str | Path, pattern: str) -> list[str]:
    """Addresses of the files in a folder that a shell-style pattern such as ``*/last.ckpt`` selects, sorted."""
    here = local(folder)
    if here is not None:
        return sorted(str(path) for path in here.glob(pattern))
    fs, inner = filesystem(folder)
    return sorted(fs.unstrip_protocol(path) for path in fs.glob(f"{inner.rstrip('/')}/{pattern}"))


def join(folder: str | Path, *names: str) -> str:
    """Address of a file in a folder of this machine or a remote one.

    >>> join("memory://runs", "version_0", "metrics.csv")
    'memory://runs/version_0/metrics.csv'
    """
    return "/".join([str(folder).rstrip("/"), *names]) if REMOTE in str(folder) else str(Path(folder, *names))


def local(path: str | Path) -> Path | None:
    """The path on this machine; None for one that is remote."""
    if REMOTE not in str(path):
        return Path(path)
    fs, inner = filesystem(path)
    return Path(inner) if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else [fs.protocol]) else None


def filesystem(path: str | Path) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        ValueError: If fsspec does not know the protocol.
        ImportError: If the package that speaks it is not installed.
    """
    from fsspec.core import url_to_fs

    fs, inner = url_to_fs(str(path))
    return fs, inner


def full_disk(path: str | Path, error: OSError) -> str:
    """What to say of a file that a full disk has no room for."""
    return (
        f"Expected room for {path}, got: {error.strerror}. What was there before is kept. Free some space, or set "
        "another place."
    )


class _File(io.FileIO):
    """Remembers why a write failed: who writes through it may say something else."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _force_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
