"""What a person sees: bars, tables and messages on stderr; and data on stdout.

Data never passes through rich, which wraps at the terminal's width and reads
`[brackets]` as markup. This module and `ordtool.cli` are the only ones that know rich.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from ordtool.io.streams import stdout_bytes
from ordtool.progress import bar_begins, bar_ended, hold_bars
from ordtool.table_layout import fit_table

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def stdout_is_terminal() -> bool:
    """Say whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def stdin_is_terminal() -> bool:
    """Say whether stdin is a keyboard rather than a pipe or a file."""
    return sys.stdin is None or sys.stdin.isatty()


def stdout_has_colour() -> bool:
    """Say whether stdout may be coloured: a terminal that can, unless NO_COLOR is set; FORCE_COLOR colours a pipe."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stdout_is_terminal() and os.environ.get("TERM") != "dumb")


_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*))?`")
_options: dict[str, tuple[str, str]] = {}


def name_options(options: Mapping[str, tuple[str, str]]) -> None:
    """Let messages speak of options where functions speak of parameters.

    A function says `batch_size`, `workers=2` or `chat=False`, in backticks; whoever typed a command reads
    --batch-size, --workers 2 and --no-chat.

    Args:
        options: For each parameter its option, and the one that turns it off (empty where there is none).
    """
    _options.clear()
    _options.update(options)


def _named(text: str) -> str:
    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in _options:
            return match[0]
        on, off = _options[name]
        if value == "False" and off:
            return off
        return on if value in (None, "True") else f"{on} {value}"

    return _PARAMETER.sub(option, text)


_rank: int | None = None


def only_errors_of(rank: int) -> None:
    """Let this process tell errors alone, and say whose they are: it is one of several ranks, and not the main one."""
    global _rank
    _rank = rank


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text with its control characters spelt out, such as `\x1b`: a terminal would obey them.

    Line feeds and tabs stay. Whatever comes from an input, a file's name or a model passes through here on its way to
    a person.
    """
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def show(text: str, end: str = "\n") -> None:
    """Write text to stdout for a person who reads it there."""
    stdout_bytes().write((printable(text) + end).encode("utf-8"))


def write_line(line: str) -> None:
    """Write one line of data to stdout in UTF-8, whatever the locale says."""
    stdout_bytes().write(line.encode("utf-8") + b"\n")


def flush() -> None:
    """Hand on what stdout holds: after each record, where a reader may be waiting."""
    stdout_bytes().flush()


def error(message: str, hint: str | None = None) -> None:
    """Print `error: ...` and `hint: ...` on stderr."""
    _tell(message, "error", "bold red")
    if hint:
        _tell(hint, "hint", "bold cyan", wrap=False)  # a command, maybe, that is to be copied


def warn(message: str) -> None:
    """Print `warning: ...` on stderr."""
    _tell(message, "warning", "bold yellow")


def note(message: str, *, wrap: bool = True) -> None:
    """Print a line for people on stderr, on a terminal wrapped between words unless it holds what is to be copied."""
    _tell(message, wrap=wrap)


def _tell(message: str, kind: str = "", style: str = "", *, wrap: bool = True) -> None:
    if _rank is not None and kind != "error":
        return
    message = _named(message)
    if _rank is not None:
        message = f"rank {_rank}: {message}"
    text = f"{kind}: {message}" if kind else message
    lines = printable(text).split("\n")
    if wrap and stderr.is_terminal:
        lines = [piece for line in lines for piece in wrap_words(line, stderr.width)]
    shown = Text("\n".join(lines))
    if kind:
        shown.stylize(style, 0, len(kind) + 1)
    stderr.print(shown)


def wrap_words(text: str, width: int) -> list[str]:
    """Break a line between words; one that is wider than a line stays whole, so that it can be copied."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ) or [text]


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], *, to_stderr: bool = True
) -> None:
    """Print a table for people, as wide as the terminal at most: the first column left, numbers right.

    Args:
        title: Above the table.
        columns: The heads.
        rows: The cells; floats are shown as given, so format them first.
        to_stderr: Where it goes; stdout only where the table is the command's answer on a terminal.
    """
    clean = [[printable(str(cell)) for cell in row] for row in rows]
    width = terminal_width(to_stderr)
    lines = [Text(line, style="italic") for line in wrap_words(printable(title), width)] if title else []
    for number, part in enumerate(fit_table([printable(column) for column in columns], clean, width)):
        head, rule, *drawn = part.lines()
        lines += [Text()] if number else []
        lines += [Text(head, style="bold"), Text(rule, style="dim"), *map(Text, drawn)]
    _print(lines, to_stderr)


def print_drawing(lines: Iterable[str], *, to_stderr: bool = False) -> None:
    """Print lines that are ours, with our own colours in them, as they are."""
    _print([Text.from_ansi(line) for line in lines], to_stderr)


def terminal_width(to_stderr: bool = False) -> int:
    """Give the columns of the terminal that is written to; no limit where it is none."""
    target = stderr if to_stderr else Console()
    return target.width if target.is_terminal else sys.maxsize


def _print(lines: Iterable[Text], to_stderr: bool) -> None:
    if not to_stderr:
        hold_bars()
    target = stderr if to_stderr else Console(highlight=False, soft_wrap=True)
    for line in lines:
        target.print(line)


class _Rate(ProgressColumn):
    """Units a second, of late: the first ones, which wait for a model to load, don't count."""

    def render(self, task: Task) -> Text:
        speed = task.speed or task.finished_speed
        return Text(f"{_short(speed)} {task.fields['unit']}/s" if speed else "", style="cyan")


class _Count(ProgressColumn):
    """The part that is done, and done / total, in units."""

    def render(self, task: Task) -> Text:
        part = f"{task.percentage:.0f}% " if task.total else ""
        total = f"/{_short(task.total)}" if task.total is not None else ""
        return Text(f"{part}{_short(task.completed)}{total} {task.fields['unit']}", style="green")


def _short(number: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / limit * (10 if letter == 'k' else 1):.{1 if letter == 'k' else 2}f}{letter}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


class RichProgress:
    """Draws `ordtool.progress.Progress` on stderr: a bar with rate and time left.

    On a terminal the bar is live. In a log (stderr is no terminal) there is no bar, only
    notes and warnings.

    Args:
        quiet: No bars and no notes; warnings stay.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet or _rank is not None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, description: str, total: float | None, unit: str) -> None:
        """Begin a bar, ending the one before."""
        self.close()
        if self._quiet or not stderr.is_terminal or not bar_begins(self):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            _Rate(),
            TimeElapsedColumn(),
            TimeLeft(),
            TextColumn("{task.fields[stats]}", style="dim"),
            console=stderr,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(escape(printable(description)), total=total, unit=unit, stats="")

    def advance(self, amount: float = 1, **stats: object) -> None:
        """Move the bar; `stats` stand beside it until the next ones."""
        if self._bar is None or self._task is None:
            return
        if stats:
            shown = "  ".join(f"{key} {value}" for key, value in stats.items())
            self._bar.update(self._task, stats=escape(printable(shown)))
        self._bar.advance(self._task, amount)

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            note(message)

    def warn(self, message: str) -> None:
        """Print a warning above the bar, even when quiet."""
        warn(message)

    def close(self) -> None:
        """End the bar and remove it from the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        bar_ended(self)
