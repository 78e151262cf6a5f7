"""Outputs that are no regular files: stdout, pipes under any name, devices. They are written straight through.

Nothing of them can be renamed into place, replaced or resumed; a reader at the other end has the bytes already.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ordtool.errors import OrdtoolError, UsageError
from ordtool.progress import hold_bars

STDOUT = "-"
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def descriptor_of(path: str | Path) -> int | None:
    """Return the number of an open file that a path stands for: 63 for `/dev/fd/63`, 1 for `/dev/stdout`."""
    found = _DESCRIPTOR.fullmatch(str(path))
    return int(found[1]) if found else _STANDARD.get(str(path))


def is_stream(path: str | Path | None) -> bool:
    """Whether an output is written straight through: None and `-`, which are stdout, and what is no regular file.

    An open file that is named by its descriptor, such as `/dev/stdout`, is one too, whatever it is: who opened it says
    where in it to write.
    """
    if path is None or str(path) == STDOUT:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return descriptor_of(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_resume(path: str | Path | None) -> None:
    """Raise a UsageError where a run is to be resumed into such an output."""
    if is_stream(path):
        raise UsageError("`resume` needs an output file to go on with", "name it with `output`")


@contextmanager
def open_stream(path: str | Path | None, *, binary: bool = False) -> Iterator[BinaryIO]:
    """Open such an output.

    Args:
        path: As in `is_stream`.
        binary: The data is not text, so it isn't written to a terminal.

    Raises:
        OrdtoolError: If stdout is closed.
        UsageError: If binary data would go to a terminal.
    """
    number = 1 if path is None or str(path) == STDOUT else descriptor_of(path)
    if number == 1:
        stream = stdout_bytes()
        if binary and sys.stdout.isatty():
            raise UsageError("binary data is not written to a terminal", "name a file with -o, or pipe it on")
        yield stream
        stream.flush()
        return
    assert path is not None
    with open(path if number is None else os.dup(number), "wb") as file:
        yield file


def stdout_bytes() -> BinaryIO:
    """Return stdout for bytes; from the first of them on no bar is drawn, unless they go to a file.

    Raises:
        OrdtoolError: If the process was started without one.
    """
    if sys.stdout is None:
        raise OrdtoolError(
            "stdout is closed, and the result goes there", "leave it open, or name a file with -o"
        )
    return cast(BinaryIO, _SharedStdout(sys.stdout.buffer) if _may_be_shown() else sys.stdout.buffer)


def _may_be_shown() -> bool:
    """Whether stdout is a terminal, or a pipe, whose reader may write on this terminal at any time."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):
        return False  # not a file of the system: Python's own, in memory
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdout.isatty()


class _SharedStdout:
    """Bytes that may be seen on the terminal where bars are drawn."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        hold_bars()
        return self._stream.write(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def occupy_standard_descriptors() -> None:
    """Open the null device where stdin, stdout or stderr is closed, so that no file of ours gets its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
