"""Inputs that are opened once: files, pipes and stdin, gzip or not, read in one way.

A pipe gives its bytes once, under whatever name it comes: `-`, `/dev/stdin`, `<(command)` (which is
`/dev/fd/63`), a named pipe, a socket. So an input is opened once, what it holds is decided by looking at its first
bytes without taking them away, and what has to be read twice is refused where the input is no regular file.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.arrays import array_lines
from ordtool.io.streams import descriptor_of

STDIN = "-"
JSON_SUFFIX = ".json"
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
BOM = b"\xef\xbb\xbf"
_OBJECTS = re.compile(rb'\s*\[\s*\{\s*("|$)')
_GZIP_MAGIC = b"\x1f\x8b"
_PDF_MAGIC = b"%PDF-"
_PIECE = 1 << 16
_NO_INPUT = "no input: give a file, or pipe text in"
_NO_INPUT_HINT = "for example: echo 'The children played in the garden.' | ordtool parse"


class Input(io.BufferedReader):
    """A binary stream whose beginning can be looked at; made by `open_input`.

    Attributes:
        path: As it was given.
        source: Its name for messages: the path, `<stdin>` for `-`.
        once: It is no regular file, so that nothing but its content says what it holds, and it can't be opened again.
        packed: It was gzip, and is unpacked on the way.
        consumed: Bytes, unpacked, of the lines that `read_lines` gave.
        first: The number of its first line: more than 1 where it is a piece of a file.
    """

    def __init__(self, beginning: _Beginning, path: str, once: bool, packed: bool, first: int = 1) -> None:
        super().__init__(beginning, _PIECE)
        self._beginning = beginning
        self.path = path
        self.source = source_name(path)
        self.once = once
        self.packed = packed
        self.consumed = 0
        self.first = first

    def starts_with(self, magic: bytes) -> bool:
        """Whether the input, of which nothing was read yet, begins with these bytes; it reads no further."""
        with _as_read_errors(self.source):
            return self._beginning.starts_with(magic)

    def first_line(self) -> bytes:
        """Return the first line that isn't blank, of an input of which nothing was read yet; empty if there is none."""
        with _as_read_errors(self.source):
            return b"".join(self._beginning.first_lines(1)).removeprefix(BOM)

    def holds_array(self) -> bool:
        """Whether the input, of which nothing was read yet, is a JSON array: of objects, if its name isn't `.json`."""
        first = self.first_line()
        if not first.lstrip().startswith(b"["):
            return False
        if data_suffix(self.path) == JSON_SUFFIX or _OBJECTS.match(first):
            return True
        with _as_read_errors(self.source):
            return first.strip() == b"[" and self._beginning.first_lines(2)[-1].lstrip().startswith(b"{")


class _ReadsBytes(Protocol):
    def read1(self, size: int, /) -> bytes: ...
    def readinto1(self, buffer: Any, /) -> int: ...


class _Beginning(io.RawIOBase):
    """The bytes of a stream, of which the first can be looked at before they are read.

    Args:
        stream: Where the bytes come from.
        owned: What is closed with it; nothing for stdin, which is its owner's.
    """

    def __init__(self, stream: _ReadsBytes, owned: Sequence[Any]) -> None:
        self._stream = stream
        self._owned = owned
        self._ahead = bytearray()

    def starts_with(self, magic: bytes) -> bool:
        # A writer may wait for an answer to its first line, so no more is read than decides.
        while len(self._ahead) < len(magic) and magic.startswith(self._ahead) and self._more():
            pass
        return self._ahead.startswith(magic)

    def first_lines(self, count: int) -> list[bytes]:
        """Return the first lines that aren't blank, as many as there are."""
        found: list[bytes] = []
        start = 0
        while len(found) < count:
            end = self._ahead.find(b"\n", start)
            while end < 0:
                known = len(self._ahead)
                if not self._more():
                    end = known
                    break
                end = self._ahead.find(b"\n", known)
            line = bytes(self._ahead[start:end])
            if line.removeprefix(BOM).strip():
                found.append(line)
            if end == len(self._ahead):
                break
            start = end + 1
        return found

    def _more(self) -> bool:
        piece = self._stream.read1(_PIECE)
        self._ahead += piece
        return bool(piece)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ahead:
            return self._stream.readinto1(buffer)
        size = min(len(buffer), len(self._ahead))
        buffer[:size] = self._ahead[:size]
        del self._ahead[:size]
        return size

    def close(self) -> None:
        if not self.closed:
            for thing in self._owned:
                thing.close()
        super().close()


@contextmanager
def open_input(path: str | Path) -> Iterator[Input]:
    """Open a file, a pipe, or stdin for `-`, for reading bytes; gzip is unpacked on the way.

    Raises:
        OrdtoolError: If it is missing, a folder, not permitted, or a PDF.
        UsageError: If stdin is asked for and is a terminal.
    """
    once = reads_once(path)
    stream = _open(path, once)
    beginning = _Beginning(stream, () if str(path) == STDIN else (stream,))
    with _as_read_errors(source_name(path)):
        packed = beginning.starts_with(_GZIP_MAGIC)
    if packed:
        below = io.BufferedReader(beginning, _PIECE)
        unpacked = gzip.GzipFile(fileobj=below, mode="rb")
        beginning = _Beginning(cast(_ReadsBytes, unpacked), (unpacked, below))
    with Input(beginning, str(path), once, packed) as found:
        if found.starts_with(_PDF_MAGIC):  # its first line would pass for a sentence
            raise OrdtoolError(
                f"{source_name(path)}: this is a PDF, and text is needed",
                "pdftotext FILE.pdf makes text of it",
            )
        yield found


@contextmanager
def open_piece(data: bytes, path: str | Path, first: int = 1) -> Iterator[Input]:
    """Open some lines of a file, which were read already, as an input whose first line has a number of its own."""
    buffer = io.BytesIO(data)
    with Input(_Beginning(cast(_ReadsBytes, buffer), (buffer,)), str(path), False, False, first) as found:
        yield found


def _open(path: str | Path, once: bool) -> _ReadsBytes:
    if str(path) == STDIN:
        _check_stdin()
        return cast(_ReadsBytes, sys.stdin.buffer)
    try:
        number = descriptor_of(path)
        # A socket can't be opened by its name, but its descriptor can be shared.
        return open(path if number is None or not once else os.dup(number), "rb")
    except OSError as error:
        raise OrdtoolError(*_open_failure(path, error)) from None


def data_suffix(path: str | Path) -> str:
    """Return what a file's name ends in, in lower case and without `.gz`: `.jsonl` for `X.JSONL.gz`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def separator_of(path: str | Path) -> str | None:
    """Return what separates the columns of a table by its name (`.csv`, `.tsv`, `.tab`, `.gz` too), None for others."""
    return _SEPARATORS.get(data_suffix(path))


def read_lines(stream: BinaryIO, source: str, *, arrays: bool = True) -> Iterator[bytes]:
    """Yield the lines of a binary stream without their line ends (LF or CR LF), and without byte order marks.

    A mark stands at the beginning of every file that has one, and so inside of files that were joined with `cat`.

    Args:
        stream: A binary stream, as `open_input` gives, of which nothing was read yet.
        source: Its name for messages.
        arrays: Give a JSON array as lines that hold an element each; see `array_lines`.

    Raises:
        OrdtoolError: If a gzip stream is damaged, the disk fails, or an array doesn't end.
    """
    lines = _read_lines(stream, source)
    array = arrays and isinstance(stream, Input) and stream.holds_array()
    return array_lines(lines, source) if array else lines


def _read_lines(stream: BinaryIO, source: str) -> Iterator[bytes]:
    counted = stream if isinstance(stream, Input) else None
    with _as_read_errors(source):
        for raw in stream:
            if counted is not None:
                counted.consumed += len(raw)
            line = raw[:-1] if raw.endswith(b"\n") else raw
            line = line[:-1] if line.endswith(b"\r") else line
            yield line.removeprefix(BOM)


def read_pieces(stream: BinaryIO, source: str) -> Iterator[bytes]:
    """Yield a binary stream in pieces of a megabyte; raises as `read_lines` does."""
    with _as_read_errors(source):
        while piece := stream.read(1 << 20):
            yield piece


def decode_line(raw: bytes, source: str, number: int) -> str:
    """Decode one line as UTF-8.

    Raises:
        OrdtoolError: Naming `source:number` and the first bad byte.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "convert it first: iconv -f latin1 -t utf-8 (or the encoding it has)"
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            hint = "this looks like UTF-16: iconv -f utf-16 -t utf-8 converts it"
        elif raw.startswith(b"\x93NUMPY"):
            hint = "this is an NPY file, and a text file is expected here"
        elif raw.startswith(b"PK\x03\x04"):
            hint = "this is a zip archive, as .docx, .odt and .xlsx are: save it as plain text in UTF-8 first"
        raise OrdtoolError(
            f"{source}:{number}: invalid UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})",
            hint,
        ) from None


@contextmanager
def _as_read_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OrdtoolError(f"{source}: damaged gzip data ({error})", "try gzip -t on the file") from error
    except OSError as error:
        raise OrdtoolError(f"{source}: can't be read: {error.strerror or error}") from error


def source_name(path: str | Path) -> str:
    """Return an input's name for messages: the path, `<stdin>` for `-`."""
    return "<stdin>" if str(path) == STDIN else str(path)


def reads_once(path: str | Path) -> bool:
    """Whether an input can be read once only: stdin, a pipe, a socket, a device; a missing one can't be read."""
    if str(path) == STDIN:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def regular_size(paths: Sequence[str | Path]) -> int | None:
    """Give the bytes of all inputs together; None if one is no regular file, or packed, or none is given."""
    total = 0
    for path in paths:
        if reads_once(path):
            return None
        with open_input(path) as stream:
            if stream.packed:
                return None
        total += os.path.getsize(path)
    return total if paths else None


def read_again(paths: Sequence[str | Path]) -> list[str]:
    """Return the inputs if all of them can be read again, as a resumed run does; nothing if one can't, or none is given."""
    return [] if any(map(reads_once, paths)) else [str(path) for path in paths]


def check_inputs(
    paths: Sequence[str | Path], *, missing: str = _NO_INPUT, hint: str = _NO_INPUT_HINT
) -> None:
    """Find what is wrong with inputs before long work, and take nothing out of a pipe.

    Args:
        paths: The inputs; none is stdin.
        missing: What to say where stdin is a terminal.
        hint: And what to do about it.

    Raises:
        OrdtoolError: If one is missing, a folder or not permitted.
        UsageError: If stdin is a terminal, or a pipe is named twice.
    """
    seen: set[object] = set()
    for path in paths or [STDIN]:
        if str(path) == STDIN:
            _check_stdin(missing, hint)
        if not reads_once(path):
            with open_input(path):
                continue
        if str(path) != STDIN and not os.access(path, os.R_OK):
            raise OrdtoolError(f"{path}: permission denied", "look at its rights with ls -l")
        pipe = _pipe(path)
        if pipe in seen:
            raise UsageError(f"{source_name(path)}: a pipe can be read once, and it is named twice")
        seen.add(pipe)


def _pipe(path: str | Path) -> object:
    """Tell pipes apart, whatever their names."""
    try:
        found = os.fstat(0) if str(path) == STDIN else os.stat(path)
    except OSError:
        return str(path)
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        return found.st_dev, found.st_ino
    return STDIN if str(path) in (STDIN, "/dev/stdin") else object()


def check_read_twice(paths: Iterable[str | Path], what: str = "the text") -> None:
    """Check before long work that inputs are there and can be read more than once.

    Args:
        paths: The inputs.
        what: They hold, for the message.

    Raises:
        OrdtoolError: If one is missing, a folder or not permitted.
        UsageError: If one is stdin or another pipe.
    """
    for path in paths:
        if reads_once(path):
            raise UsageError(
                f"{source_name(path)}: {what} is read more than once, so it can't come from a pipe",
                "save it in a file",
            )
        with open_input(path):
            pass


def _check_stdin(missing: str = _NO_INPUT, hint: str = _NO_INPUT_HINT) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(missing, hint)


def _open_failure(path: str | Path, error: OSError) -> tuple[str, str | None]:
    if error.errno == errno.ENOENT:
        return f"{path}: no such file", _similar_file_hint(Path(path))
    if error.errno == errno.EISDIR or Path(path).is_dir():
        return _folder_failure(Path(path))
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path}: permission denied", "look at its rights with ls -l"
    return f"{path}: can't be read: {error.strerror}", None


def _folder_failure(path: Path) -> tuple[str, str | None]:
    """Say what a folder holds most of, as the shell would name it."""
    try:
        endings = Counter(file.suffix for file in path.iterdir() if file.is_file() and file.name[:1] != ".")
    except OSError:
        endings = Counter()
    message = f"{path}: is a folder, and a file is expected here"
    if not endings:
        return message, "name a file"
    ending, count = endings.most_common(1)[0]
    return (
        message,
        f"name its {count:,} {f'{ending} ' if ending else ''}file{'s' * (count > 1)}: {path}/*{ending}",
    )


def _similar_file_hint(path: Path) -> str | None:
    import difflib

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"the folder {path.parent} is not there either"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "check the path"
