"""Outputs that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from ordtool.errors import OrdtoolError
from ordtool.io.inputs import check_read_twice
from ordtool.io.locks import lock
from ordtool.io.streams import is_stream, open_stream

_OLD = ".ordtool-old"
_LONGEST_NAME = 255  # bytes, on the file systems in use
# How torch says that it could not write a file; it doesn't say why.
_TORCH = ("PytorchStreamWriter", "inline_container", "iostream error")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_output(
    path: str | Path | None, *, force: bool = False, binary: bool = False
) -> Iterator[BinaryIO]:
    """Open an output that appears under its name only when everything was written.

    A sibling, `.NAME.partial`, is written, flushed to the disk and renamed. On any
    exception it is removed, and what was there before stays; what a killed run left of
    it is replaced by the next.

    Args:
        path: The file; None or `-` is stdout, a device or pipe is written as it stands.
        force: Replace an existing file.
        binary: The data is not text, so it isn't written to a terminal.

    Yields:
        A binary file.

    Raises:
        OrdtoolError: If the file exists and `force` is not set, another run is writing
            it, its folder is missing, or the disk is full.
        UsageError: If binary data would go to a terminal.
    """
    if path is None or is_stream(path):
        with as_output_errors(path or "<stdout>"), open_stream(path, binary=binary) as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    check_output(path, force=force)
    temporary = _hidden(target, ".partial")
    with as_output_errors(path), lock(temporary):
        remove_path(temporary)
        try:
            with open(temporary, "x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_output(path: str | Path | None, *, force: bool = False) -> None:
    """Check before long work that an output can be written.

    Raises:
        OrdtoolError: If it exists and `force` is not set, is a folder, its name is too
            long, or its folder is missing or not writable.
    """
    if path is None or is_stream(path):
        return
    target = Path(os.path.realpath(path))
    _check_name(path, target)
    if target.is_dir():
        raise OrdtoolError(
            f"{path}: is a folder, and the output is a file", f"name a file in it: {path}/NAME"
        )
    _check_parent(path, target)
    if target.is_file() and not force:
        raise OrdtoolError(f"{path}: exists already", "`force` replaces it")
    _check_rights(path, target)


@contextmanager
def atomic_directory(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete.

    A sibling, `.NAME.partial`, is filled, flushed to the disk and renamed. A folder that
    is replaced is moved away first and then removed; if the process dies in between,
    the next call of this function, `check_directory` or `recover_directory` puts it back.

    Args:
        path: The folder to make.
        force: Replace an existing folder.

    Yields:
        A temporary sibling folder to write into.

    Raises:
        OrdtoolError: If the folder exists and `force` is not set, another run is writing
            it, its parent is missing, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    check_directory(path, force=force)
    temporary = _hidden(target, ".partial")
    with as_output_errors(path), lock(temporary):
        remove_path(temporary)
        temporary.mkdir()
        try:
            yield temporary
            _open_rights(temporary)
            flush_folder(temporary)
            replace_directory(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def temporary_file(beside: str | Path | None) -> Iterator[BinaryIO]:
    """Open a file for what is needed only meanwhile; it has no name, so a killed run leaves nothing.

    Args:
        beside: An output, in whose folder it lies; None or `-`: in the folder for temporary files.

    Raises:
        OrdtoolError: If it can't be made, or the disk is full.
    """
    folder = None
    if beside is not None and not is_stream(beside):
        folder = os.path.dirname(os.path.realpath(beside))
    try:
        name = folder or tempfile.gettempdir()
    except FileNotFoundError:
        raise OrdtoolError("no folder for temporary files can be written", "name one with TMPDIR") from None
    with as_output_errors(name), tempfile.TemporaryFile(prefix="ordtool-", dir=name) as file:
        yield cast(BinaryIO, file)


def check_directory(path: str | Path, *, force: bool = False) -> None:
    """Check before long work that an output folder can be made; raises as `atomic_directory`."""
    if is_stream(path):
        raise OrdtoolError(f"{path}: is no folder, and the output is one", "name a new folder")
    target = Path(os.path.realpath(path))
    _check_name(path, target)
    _check_parent(path, target)
    _check_rights(path, target)
    recover_directory(path)
    if target.exists() and not target.is_dir():
        raise OrdtoolError(f"{path}: is a file, and the output is a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise OrdtoolError(f"{path}: exists already", "`force` replaces it")


def recover_directory(path: str | Path) -> None:
    """Put back a folder that a run had moved away to replace it when it was killed."""
    target = Path(os.path.realpath(path))
    old = _hidden(target, _OLD)
    if not os.path.lexists(old):
        return
    # A living run holds the lock: it is about to put its own in place. Nor is a reader without rights to do it.
    with suppress(OrdtoolError, OSError), lock(_hidden(target, ".partial")):
        if target.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, target)


def _hidden(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}{suffix}")


def _check_name(path: str | Path, target: Path) -> None:
    length, most = len(os.fsencode(target.name)), _LONGEST_NAME - len(".partial.json.new.lock")
    if length > most:
        raise OrdtoolError(
            f"{path}: the name is too long: {length} bytes", f"a name has {most} bytes at most"
        )
    with as_output_errors(path), suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(target)  # a folder's name may be too long too, or the whole


def _check_parent(path: str | Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise OrdtoolError(f"{path}: the folder {target.parent} is missing", f"mkdir -p {target.parent}")


def _check_rights(path: str | Path, target: Path) -> None:
    if not os.access(target.parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OrdtoolError(f"{path}: the folder {target.parent} is not writable")


def remove_path(path: Path) -> None:
    """Remove what a killed run left under a temporary name: a file, a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_rights(folder: Path) -> None:
    """Give the folder and its files the rights that the umask leaves: some writers make private files."""
    mask = _umask()
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def flush_folder(folder: Path) -> None:
    """Flush a folder's files to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def replace_directory(temporary: Path, target: Path) -> None:
    """Move a complete folder to its name: in two steps where one is there, of whose gap `recover_directory` knows."""
    if not target.exists():
        os.replace(temporary, target)
        return
    old = _hidden(target, _OLD)
    os.replace(target, old)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old)


@contextmanager
def as_output_errors(path: str | Path) -> Iterator[None]:
    """Turn a full disk, missing rights and the like into an `OrdtoolError` that names `path`."""
    try:
        yield
    except (OrdtoolError, BrokenPipeError):
        raise
    except Exception as error:
        if (found := _output_error(path, error)) is None:
            raise
        raise found from None


def _output_error(path: str | Path, error: Exception) -> OrdtoolError | None:
    number = _error_number(error)
    if number in _FULL:
        return OrdtoolError(
            f"{path}: no space left on the disk; nothing was left under that name",
            "free some space, or name another disk",
        )
    if number == errno.ENAMETOOLONG:
        return OrdtoolError(f"{path}: the name is too long", "give a shorter one")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
        return OrdtoolError(f"{path}: can't be written: {os.strerror(number)}")
    if any(word in str(error) for word in _TORCH):
        return OrdtoolError(f"{path}: can't be written: torch could not write a file", "is the disk full?")
    return None


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    # Libraries in Rust (safetensors, tokenizers) and Arrow give the number in their words only.
    found = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return int(found[1] or found[2]) if found else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_fingerprint(paths: Iterable[str | Path]) -> str:
    """Return the SHA-256 of the files' contents, in order: what a resumed run is held to.

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
