"""One run at a time on an output: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ordtool.errors import OrdtoolError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".lock"


@contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder that is being written.

    The lock is advisory, on the file `<path>.lock`, which says who holds it and is gone
    afterwards; one that a killed run left is taken over. Where the system or the file
    system has no such locks, nothing is locked.

    Args:
        path: What is written; it need not exist.
        wait: Wait for another holder instead of failing.

    Raises:
        OrdtoolError: If another run holds it.
        OSError: If the lock's file can't be made.
    """
    if fcntl is None:
        yield
        return
    file = path.with_name(path.name + SUFFIX)
    descriptor = _take(path, file, wait)
    try:
        yield
    finally:
        with suppress(OSError):  # before the lock is released, so that nobody can have taken it over
            os.unlink(file)
        os.close(descriptor)


def _take(path: Path, file: Path, wait: bool) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise OrdtoolError(
                f"{path}: another run is writing this{holder}", "wait for it to end, or stop it"
            ) from None
        except OSError:  # a file system without locks
            return descriptor
        if _is_named(descriptor, file):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)  # the holder before removed the file after it was opened here


def _is_named(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f": process {int(found['pid'])} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
