"""JSON arrays as JSON lines: one element a line, read as it comes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ordtool.errors import OrdtoolError

# A string of JSON has no line break in it, so it ends on its line; one that doesn't is left to the parser's complaint.
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]')


def array_lines(lines: Iterable[bytes], source: str) -> Iterator[bytes]:
    """Split a JSON array into lines that hold an element each.

    An element comes on the line of the array where it begins, blank lines before it, so that the numbers of lines are
    those of the file; of several that begin on one line the others come behind it. Elements aren't checked: one
    that is no JSON, and what stands behind the array, come as they are.

    Args:
        lines: Lines of an array from its first on, without line feeds.
        source: The input's name for messages.

    Raises:
        OrdtoolError: If the array doesn't end.
    """
    depth, written, begun = 0, 0, 0
    held: list[bytes] = []
    number = 0
    for number, line in enumerate(lines, start=1):
        start = 0
        for mark in _MARK.finditer(line):
            character = mark[0]
            if character in b"[{":
                depth += 1
                if depth == 1:
                    start = mark.end()
                continue
            closes = character in b"]}"
            if depth == 1 and (closes or character == b","):
                held.append(line[start : mark.start()])
                yield from _placed(held, begun or number, written)
                written = max(written + 1, begun or number) if b"".join(held).strip() else written
                held, begun, start = [], 0, mark.end()
            depth -= closes
        rest = line[start:]
        if rest.strip():
            begun = begun or number
            held.append(rest)
    yield from _placed(held, begun, written)
    if depth > 0:
        raise OrdtoolError(f"{source}:{number}: the file ends inside of a JSON array", "was it cut off?")


def _placed(pieces: list[bytes], number: int, written: int) -> Iterator[bytes]:
    """Yield an element as one line, blank lines up to its number before it."""
    element = b" ".join(pieces).strip()
    if element:
        yield from [b""] * (number - written - 1)
        yield element
