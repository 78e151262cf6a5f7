"""Outputs that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ordtool.errors import OrdtoolError
from ordtool.io.inputs import check_read_twice
from ordtool.io.streams import is_stream, open_stream

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_output(
    path: str | Path | None, *, force: bool = False, suffix: str = ".partial", binary: bool = False
) -> Iterator[BinaryIO]:
    """Open an output that appears under its name only when everything was written.

    A sibling temporary file is written, flushed to the disk and renamed. On any
    exception it is removed, and what was there before stays.

    Args:
        path: The file; None or `-` is stdout, a device or pipe is written as it stands.
        force: Replace an existing file.
        suffix: Of the temporary file's name.
        binary: The data is not text, so it isn't written to a terminal.

    Yields:
        A binary file.

    Raises:
        OrdtoolError: If the file exists and `force` is not set, its folder is missing,
            or the disk is full.
        UsageError: If binary data would go to a terminal.
    """
    if path is None or is_stream(path):
        with as_output_errors(path or "<stdout>"), open_stream(path, binary=binary) as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    check_output(path, force=force)
    temporary: str | None = None
    try:
        with as_output_errors(path):
            descriptor, temporary = tempfile.mkstemp(
                prefix=f".{target.name}.", suffix=suffix, dir=target.parent
            )
            with open(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
            temporary = None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_output(path: str | Path | None, *, force: bool = False) -> None:
    """Check before long work that an output can be written.

    Raises:
        OrdtoolError: If it exists and `force` is not set, is a folder, or its folder is
            missing or not writable.
    """
    if path is None or is_stream(path):
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OrdtoolError(
            f"{path}: is a folder, and the output is a file", f"name a file in it: {path}/NAME"
        )
    if not target.parent.is_dir():
        raise OrdtoolError(f"{path}: the folder {target.parent} is missing", f"mkdir -p {target.parent}")
    if target.is_file() and not force:
        raise OrdtoolError(f"{path}: exists already", "--force replaces it")
    if not os.access(target.parent, os.W_OK):
        raise OrdtoolError(f"{path}: the folder {target.parent} is not writable")


@contextmanager
def atomic_directory(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete.

    Args:
        path: The folder to make.
        force: Replace an existing folder.

    Yields:
        A temporary sibling folder to write into.

    Raises:
        OrdtoolError: If the folder exists and `force` is not set, its parent is missing,
            or the disk is full.
    """
    target = Path(os.path.realpath(path))
    check_directory(path, force=force)
    with as_output_errors(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        with as_output_errors(path):
            yield temporary
            _open_rights(temporary)
            _replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_directory(path: str | Path, *, force: bool = False) -> None:
    """Check before long work that an output folder can be made; raises as `atomic_directory`."""
    if is_stream(path):
        raise OrdtoolError(f"{path}: is no folder, and the output is one", "name a new folder")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise OrdtoolError(f"{path}: the folder {target.parent} is missing", f"mkdir -p {target.parent}")
    if target.exists() and not target.is_dir():
        raise OrdtoolError(f"{path}: is a file, and the output is a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise OrdtoolError(f"{path}: exists already", "--force replaces it")


def _open_rights(folder: Path) -> None:
    """Give the folder and its files the rights that the umask leaves: some writers make private files."""
    mask = _umask()
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _replace_directory(temporary: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        os.replace(target, old)  # an empty folder may be replaced; two steps, as a full one may not
        os.replace(temporary, target)
        shutil.rmtree(old)
    else:
        os.replace(temporary, target)


@contextmanager
def as_output_errors(path: str | Path) -> Iterator[None]:
    """Turn a full disk and missing rights into an `OrdtoolError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OrdtoolError(
                f"{path}: no space left on the disk; nothing was left under that name",
                "free some space, or name another disk",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OrdtoolError(f"{path}: can't be written: {error.strerror}") from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_fingerprint(paths: Iterable[str | Path]) -> str:
    """Give the SHA-256 of the files' contents, in order: what a resumed run is held to.

    Raises:
        OrdtoolError: If a file can't be read.
        UsageError: If one is a pipe, whose bytes the fingerprint would take away.
    """
    digest = hashlib.sha256()
    paths = list(paths)
    check_read_twice(paths, "what a resumed run is held to")
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise OrdtoolError(f"{path}: can't be read: {error.strerror}") from None
    return digest.hexdigest()
