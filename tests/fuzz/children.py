"""Examples run in forked children, each with a limit of memory and of time: what ends, blows up or hangs ends there."""

import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

SECONDS = 60
"""What an example may take, of a processor's time; and how long it may wait without any."""
MEMORY = 4 << 30
"""What an example may take, in address space, beside what the process has before it begins."""

_A_CHILD = 50
_NO_ERROR = (0, 1, 2)
_RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Example:
    """A command line, its standard input, and the files it stands among.

    Attributes:
        args: Of `ordtool`.
        stdin: The bytes.
        files: Name to content, in the folder it runs in.
        links: Name to what is linked there.
    """

    args: list[str]
    stdin: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, Path] = field(default_factory=dict)


@dataclass
class Outcome:
    """How an example ended.

    Attributes:
        number: Of the example in its family.
        args: The command line.
        status: The exit status; None if the process died, or was stopped for its time.
        stderr: The last of it.
        fault: What is wrong; empty if nothing is.
    """

    number: int
    args: list[str]
    status: int | None
    stderr: str
    fault: str


def run_examples(make: Callable[[int], Example], numbers: range, folder: Path) -> Iterator[Outcome]:
    """Run examples and give what became of each.

    Args:
        make: Gives an example by its number.
        numbers: Which ones.
        folder: An empty one to work in.
    """
    left = list(numbers)
    while left:
        seen = 0
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _live(make, left[:_A_CHILD], folder, writing)
        os.close(writing)
        with open(reading, "rb", buffering=0) as results:
            for outcome in _received(results, child):
                seen += 1
                yield outcome
            hung = seen < min(len(left), _A_CHILD) and not _ends(child)
            if hung:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if seen < min(len(left), _A_CHILD):
            what = (
                f"hangs: no end after {SECONDS} s, or stands still"
                if hung
                else f"the process died: status {status}"
            )
            yield Outcome(left[seen], make(left[seen]).args, None, "", what)
            seen += 1
        left = left[seen:]


def _received(results: io.FileIO, child: int) -> Iterator[Outcome]:
    """Outcomes as they come; ends at the end of the child, or when an example takes too long or stands still."""
    waiting, begun, looked = b"", 0.0, 0.0
    while True:
        if not select.select([results], [], [], SECONDS)[0]:
            # A busy machine gives a child little time; one that hangs takes none, or has had enough.
            used = _processor_seconds(child)
            if used - begun > SECONDS or used - looked < 0.2:
                return
            looked = used
            continue
        piece = results.read(1 << 16)
        begun = looked = _processor_seconds(child)
        if not piece:
            return
        *lines, waiting = (waiting + piece).split(b"\n")
        for line in lines:
            yield Outcome(**json.loads(line))


def _processor_seconds(child: int) -> float:
    """The processor time that a child has had."""
    with open(f"/proc/{child}/stat") as stat:
        times = stat.read().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def _ends(child: int) -> bool:
    """Whether a child has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def use_one_thread() -> None:
    """Let a forked child work alone: OpenMP's threads don't outlive a fork, and who asks for two then waits for ever."""
    import torch

    os.environ["ORDTOOL_THREADS"] = "1"
    torch.set_num_threads(1)


def _live(make: Callable[[int], Example], numbers: list[int], folder: Path, results: int) -> None:
    """What a child does; it never returns."""
    try:
        warnings.resetwarnings()
        use_one_thread()
        with open("/proc/self/statm") as statm:
            limit = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            outcome = run_one(number, make(number), folder / str(number))
            os.write(results, json.dumps(asdict(outcome)).encode() + b"\n")
        os._exit(0)
    except BaseException:
        os.write(3 if results == 2 else 2, traceback.format_exc().encode())
        os._exit(99)


def run_one(number: int, example: Example, folder: Path) -> Outcome:
    """Run an example in this process, which is a child's."""
    from ordtool.cli.app import main

    work = folder / "work"
    work.mkdir(parents=True)
    for name, content in example.files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    for name, target in example.links.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).symlink_to(target)
    (folder / "in").write_bytes(example.stdin)
    os.chdir(work)
    streams = [(folder / "in").open("rb"), (folder / "out").open("wb"), (folder / "err").open("wb")]
    kept = [os.dup(k) for k in range(3)]
    before = sys.stdin, sys.stdout, sys.stderr
    for k, stream in enumerate(streams):
        os.dup2(stream.fileno(), k)
        stream.close()
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    status: int | None = None
    try:
        main(example.args)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    sys.stdin, sys.stdout, sys.stderr = before
    for k, number_kept in enumerate(kept):
        os.dup2(number_kept, k)
        os.close(number_kept)
    said = (folder / "err").read_bytes().decode("utf-8", "replace")
    fault = fault_of(status, said, (folder / "out").read_bytes(), os.listdir(work), example.args)
    os.chdir("/")
    if not fault:
        shutil.rmtree(folder)
    return Outcome(number, example.args, status, said[-1500:], fault)


def fault_of(status: int | None, said: str, out: bytes, names: list[str], args: list[str]) -> str:
    """Say what is wrong with how a command ended; nothing if all is well."""
    if status not in _NO_ERROR:
        return f"exit status {status}"
    for sign in ("Traceback", "this is a bug", "unexpected: "):
        if sign in said:
            return sign
    if _RAW.search(said):
        return f"control characters on stderr: {_RAW.search(said)!r}"
    errors = sum(line.startswith("error: ") for line in said.splitlines())
    if status and errors != 1:
        return f"{errors} lines of error with status {status}"
    hidden = [name for name in names if name.startswith(".") or name.endswith((".lock", ".new"))]
    if hidden:
        return f"left behind: {hidden}"
    if "--json" in args and status == 0:
        for line in out.split(b"\n"):
            try:
                json.loads(line or b"{}", parse_constant=_no_constant)
            except ValueError as error:
                return f"no JSON on stdout: {error}: {line[:80]!r}"
    return ""


def _no_constant(name: str) -> None:
    raise ValueError(name)
