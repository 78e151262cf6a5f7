"""Text and JSONL input: one record a line, from files, gzip files or a pipe.

Lines are read as bytes and split at the line feed only, because `str.splitlines` also
splits at U+2028, U+0085 and others that occur inside real text. Nothing is held but the
current line, so memory doesn't grow with the input.
"""

from __future__ import annotations

import errno
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError, UsageError

STDIN = "-"
GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
JSONL_SUFFIXES = {".jsonl", ".ndjson"}

Format = Literal["auto", "text", "jsonl"]


@dataclass(frozen=True, slots=True)
class Record:
    """One line of input.

    Attributes:
        source: The file's name as given, `<stdin>` for a pipe.
        line: Its line number, from 1.
        text: The text; for JSONL the value of the text field.
        data: The whole JSON object of a JSONL line, keys in order; None for plain text.
    """

    source: str
    line: int
    text: str
    data: dict[str, Any] | None = None

    @property
    def where(self) -> str:
        """The place as `file:line`, for messages."""
        return f"{self.source}:{self.line}"


def read_records(
    paths: str | Path | Sequence[str | Path],
    field: str = "text",
    *,
    format: Format = "auto",
    on_error: Callable[[OrdtoolError], None] | None = None,
) -> Iterator[Record]:
    """Read texts from files, one a line.

    Args:
        paths: Files in order; none, or `-`, is stdin. gzip is recognised by its first bytes.
        field: The key of a JSONL object that holds the text.
        format: `text`, `jsonl`, or `auto`: JSONL for `.jsonl` and `.ndjson` (`.gz` too)
            and for a pipe whose first line is a JSON object with the field.
        on_error: Called with each bad record, which is then skipped; None raises it.

    Yields:
        A record a line; empty lines of plain text are records too (ids stay aligned),
        blank lines of JSONL are not.

    Raises:
        OrdtoolError: For a missing or unreadable file, invalid UTF-8 or malformed JSON
            (with `file:line`) where `on_error` is None.
    """
    for path in as_strings(paths) or (STDIN,):
        yield from _read_one(path, field, format, on_error)


def _read_one(
    path: str, field: str, format: Format, on_error: Callable[[OrdtoolError], None] | None
) -> Iterator[Record]:
    source = "<stdin>" if path == STDIN else path
    jsonl = format == "jsonl" or (format == "auto" and has_jsonl_suffix(path))
    undecided = format == "auto" and path == STDIN
    with open_input(path) as stream:
        for number, raw in enumerate(read_lines(stream, source), start=1):
            try:
                text = decode_line(raw, source, number)
                if undecided:
                    jsonl, undecided = looks_like_jsonl(text, field), False
                if not jsonl:
                    yield Record(source, number, text)
                elif text.strip():
                    yield parse_json_record(text, source, number, field)
            except OrdtoolError as error:
                if on_error is None:
                    raise
                on_error(error)


def read_lines(stream: BinaryIO, source: str) -> Iterator[bytes]:
    """Yield the lines of a binary stream without their line ends (LF or CR LF).

    Args:
        stream: A binary stream, as `open_input` gives.
        source: Its name for messages.

    Raises:
        OrdtoolError: If a gzip stream is damaged or the disk fails.
    """
    first = True
    try:
        for raw in stream:
            line = raw[:-1] if raw.endswith(b"\n") else raw
            line = line[:-1] if line.endswith(b"\r") else line
            if first:
                line, first = line.removeprefix(BOM), False
            yield line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OrdtoolError(f"{source}: damaged gzip data ({error})", "try gzip -t on the file") from error
    except OSError as error:
        raise OrdtoolError(f"{source}: can't be read: {error.strerror or error}") from error


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
        raise OrdtoolError(
            f"{source}:{number}: invalid UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})",
            hint,
        ) from None


def parse_json_record(text: str, source: str, number: int, field: str) -> Record:
    """Parse one JSONL line and take its text.

    Raises:
        OrdtoolError: Naming `source:number`, for malformed JSON, something else than an
            object, or a missing or non-string field.
    """
    data = parse_json_object(text, source, number)
    if field not in data:
        keys = ", ".join(data) or "none"
        raise OrdtoolError(
            f"{source}:{number}: no field {field!r} (keys: {keys})", "name the text's key with --field"
        )
    if not isinstance(data[field], str):
        found = type(data[field]).__name__
        raise OrdtoolError(f"{source}:{number}: field {field!r} must be a string, found {found}")
    return Record(source, number, data[field], data)


def parse_json_object(text: str, source: str, number: int) -> dict[str, Any]:
    """Parse one line as a JSON object.

    Raises:
        OrdtoolError: Naming `source:number`.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise OrdtoolError(
            f"{source}:{number}: malformed JSON ({reason}{column})",
            "a .jsonl file has one JSON object a line",
        ) from None
    if not isinstance(data, dict):
        raise OrdtoolError(
            f"{source}:{number}: expected a JSON object, found {type(data).__name__}",
            'a line looks like {"text": "..."}',
        )
    return data


def has_jsonl_suffix(path: str | Path) -> bool:
    """Say whether a file's name promises JSONL (`x.jsonl`, `x.ndjson`, either with `.gz`)."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in JSONL_SUFFIXES


def looks_like_jsonl(text: str, field: str) -> bool:
    """Say whether a line is a JSON object that holds the field."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        data = json.loads(text)
    except ValueError:
        return False
    return isinstance(data, dict) and field in data


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file, or stdin for `-`, for reading bytes; gzip is unpacked on the way.

    Raises:
        OrdtoolError: If it is missing, a folder or not permitted.
        UsageError: If stdin is asked for and is a terminal.
    """
    stream = open_binary(path)
    try:
        yield stream
    finally:
        if str(path) != STDIN:
            stream.close()


def open_binary(path: str | Path) -> BinaryIO:
    """Open as `open_input` does, without closing: the caller closes."""
    if str(path) == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "no input: give a file, or pipe text in",
                "for example: echo 'The cat sat on the mat.' | ordtool parse",
            )
        stream = cast(BinaryIO, sys.stdin.buffer)
        return _gunzip_if_needed(stream)
    try:
        return _gunzip_if_needed(open(path, "rb"))
    except OSError as error:
        raise OrdtoolError(*_open_failure(path, error)) from None


class _Gunzip(gzip.GzipFile):
    """A gzip reader that closes the file under it too."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._under = stream

    def close(self) -> None:
        super().close()
        self._under.close()


def _gunzip_if_needed(stream: BinaryIO) -> BinaryIO:
    peek = getattr(stream, "peek", None)
    if peek is not None and peek(2)[:2] == GZIP_MAGIC:
        return cast(BinaryIO, _Gunzip(stream))
    return stream


def _open_failure(path: str | Path, error: OSError) -> tuple[str, str | None]:
    if error.errno == errno.ENOENT:
        return f"{path}: no such file", _similar_file_hint(Path(path))
    if error.errno == errno.EISDIR or Path(path).is_dir():
        return f"{path}: is a folder, and a file is expected here", f"name its files: {path}/*"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path}: permission denied", "look at its rights with ls -l"
    return f"{path}: can't be read: {error.strerror}", None


def _similar_file_hint(path: Path) -> str | None:
    import difflib

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"the folder {path.parent} is not there either"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "check the path"
