"""Lines out that survive an interruption: a `.partial` beside the output, and how far it is.

Beside `out.jsonl` stand, while it is being written, `out.jsonl.partial` with the lines
so far and `out.jsonl.partial.json` with the input's hash, the settings and the position.
A finished output is renamed and the position removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.atomic import as_output_errors, atomic_output, check_output, file_fingerprint
from ordtool.io.streams import is_stream, refuse_resume


class Lines:
    """Takes the output's lines.

    Args:
        file: Where they go.
        position: The sidecar; None: nothing is recorded.
        facts: What a resumed run is held to.
        done: Records of the input that are done already.
    """

    def __init__(self, file: BinaryIO, position: Path | None, facts: dict[str, Any], done: int = 0) -> None:
        self.done = done
        self._file = file
        self._position = position
        self._facts = facts
        self.save(done)

    @property
    def file(self) -> BinaryIO:
        """The file itself, at the end of what was written: for outputs that are no lines."""
        return self._file

    def write(self, line: str) -> None:
        """Write one line, its line feed added."""
        self._file.write(line.encode("utf-8") + b"\n")

    def save(self, done: int) -> None:
        """Hand on what was written, and record that `done` records of the input are done."""
        self._file.flush()
        self.done = done
        if self._position is None:
            return
        state = {**self._facts, "done": done, "bytes": self._file.tell()}
        temporary = self._position.with_name(self._position.name + ".new")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self._position)


@contextmanager
def resumable_lines(
    path: str | Path | None,
    *,
    inputs: Sequence[str | Path],
    settings: dict[str, Any],
    resume: bool = False,
    force: bool = False,
) -> Iterator[Lines]:
    """Open an output of lines that an interrupted run leaves in a state to go on from.

    Args:
        path: The file; None or `-` is stdout, of which nothing is recorded.
        inputs: The input files, whose contents a resumed run must find unchanged; empty
            if the input is a pipe, which can't be resumed.
        settings: What else must be the same; anything JSON holds.
        resume: Go on from the `.partial`; without one, begin.
        force: Replace an existing output, or an interrupted one.

    Yields:
        The lines; `done` says how many records to pass over.

    Raises:
        UsageError: If a pipe or stdout is to be resumed.
        OrdtoolError: If the output exists, was interrupted and neither `resume` nor
            `force` is given, or was made from another input or with other settings.
    """
    if resume:
        refuse_resume(path)
    if path is None or is_stream(path):
        with atomic_output(path) as stream:
            yield Lines(stream, None, {})
        return
    if resume and not inputs:
        raise UsageError("--resume needs input files; a pipe can't be read again", "save the input in a file")
    check_output(path, force=force)
    target = Path(os.path.realpath(path))
    with as_output_errors(path):
        yield from _journalled(path, target, inputs, settings, resume, force)


def _journalled(
    path: str | Path,
    target: Path,
    inputs: Sequence[str | Path],
    settings: dict[str, Any],
    resume: bool,
    force: bool,
) -> Iterator[Lines]:
    partial = target.with_name(target.name + ".partial")
    position = target.with_name(target.name + ".partial.json")
    facts = {"input": file_fingerprint(inputs) if inputs else None, "settings": settings}
    state = _state(path, position, facts) if resume and partial.exists() else {}
    if partial.exists() and not resume and not force:
        raise OrdtoolError(
            f"{partial}: an interrupted run left this", "--resume goes on with it, --force begins anew"
        )
    with open(partial, "r+b" if state else "w+b") as file:
        if state:
            file.truncate(state["bytes"])
            file.seek(state["bytes"])
        lines = Lines(file, position, json.loads(json.dumps(facts)), state.get("done", 0))
        yield lines
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)
    position.unlink(missing_ok=True)


def _state(path: str | Path, position: Path, facts: dict[str, Any]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(position.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OrdtoolError(
            f"{position}: missing or damaged, so the interrupted run can't be gone on with",
            "--force begins anew",
        ) from None
    wanted = json.loads(json.dumps(facts))
    if state.get("input") != wanted["input"]:
        raise OrdtoolError(f"{path}: the input has changed since the interrupted run", "--force begins anew")
    changed = [
        name
        for name in {**wanted["settings"], **state.get("settings", {})}
        if wanted["settings"].get(name) != state.get("settings", {}).get(name)
    ]
    if changed:
        raise OrdtoolError(
            f"{path}: the interrupted run had other settings ({', '.join(sorted(changed))})",
            "repeat its command with --resume, or begin anew with --force",
        )
    return state
