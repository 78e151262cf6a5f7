"""`ordtool`: the table of commands and the one place where errors are printed."""

from __future__ import annotations

import _thread
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.main import get_command

from ordtool import __version__
from ordtool.cli._lazy import CONTEXT, lazy_group
from ordtool.cli.options import option
from ordtool.distributed import FailedOnMain, rank
from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.streams import occupy_standard_descriptors, stdout_bytes
from ordtool.progress import close_bars, hold_bars
from ordtool.runtime import library_messages

COMMANDS = {
    "parse": "ordtool.cli.parse:parse",
    "embed": "ordtool.cli.embed:embed",
    "whiten": "ordtool.cli.whiten:app",
    "hsic": "ordtool.cli.hsic:hsic",
    "extrapolate": "ordtool.cli.extrapolate:extrapolate",
    "generate": "ordtool.cli.generate:generate",
    "train": "ordtool.cli.train:app",
    "predict": "ordtool.cli.predict:predict",
    "score": "ordtool.cli.score:app",
    "models": "ordtool.cli.models:app",
}

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
INTERRUPTED = 130
TERMINATED = 143  # 128 + SIGTERM

# What a person can mend, and no bug: names, rights, disks.
_OF_THE_SYSTEM = {
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ordtool.models.releases import installed_releases

        stdout_bytes().write(f"ordtool {__version__}\n".encode())
        for name, release in installed_releases().items():
            sys.stdout.write(f"{name} {release or 'not installed'}\n")
        raise typer.Exit


@app.callback()
def ordtool(
    version: Annotated[
        bool,
        option("Print the versions and exit.", names="--version", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool,
        option("Show an error's traceback and libraries' warnings; may stand anywhere.", names="--debug"),
    ] = False,
) -> None:
    """Ordered neurons, whitening, HSIC and other good ideas of NLP, for any Hugging Face model.

    Every command reads files or a pipe and writes data to stdout or to `-o`; people are spoken to on stderr.
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its status: the one error boundary.

    0 success; 1 the data or the run failed; 2 usage; 130 Ctrl-C; 141 broken pipe; 143 ended by `kill`.
    """
    ended: list[int] = []
    try:
        occupy_standard_descriptors()
        args, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
        with library_messages(shown=debug), interrupts_arrive(), terminations_arrive(ended):
            status = _run(args, debug)
    except KeyboardInterrupt:  # outside of the command, which has its own
        status = _interrupted()
    sys.exit(TERMINATED if status == INTERRUPTED and ended else status)


@contextmanager
def interrupts_arrive() -> Iterator[None]:
    """Send Ctrl-C once more where it came while an object was being deleted: Python would print and forget it."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        timer = threading.Timer(
            0.02, _thread.interrupt_main
        )  # later, since it would be forgotten in here too
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def terminations_arrive(ended: list[int]) -> Iterator[None]:
    """Let `kill` end a command as Ctrl-C does: nothing half-written is left, and the cursor is seen again.

    Args:
        ended: Is given the signal when it comes.
    """
    process = os.getpid()

    def handle(number: int, _frame: object) -> None:
        if os.getpid() != process:  # a child that was forked from this process
            os._exit(128 + number)
        ended.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take_debug(args: list[str]) -> tuple[list[str], bool]:
    """Find `--debug` wherever it stands, so that it can be added to the end of a failed line."""
    end = args.index("--") if "--" in args else len(args)
    kept = [arg for arg in args[:end] if arg != "--debug"] + args[end:]
    return kept, len(kept) < len(args) or bool(os.environ.get("ORDTOOL_DEBUG"))


def _run(args: list[str], debug: bool) -> int:
    from typer.exceptions import TyperException

    hold_bars(False)
    _hold_back(rank())
    try:
        try:
            status = get_command(app).main(args, prog_name="ordtool", standalone_mode=False)
        finally:
            close_bars()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (UsageError, FailedOnMain) as error:
        # Rank 0 says so too: all ranks have the same command line.
        return error.exit_code if rank() else _fail(error.message, error.hint, error.exit_code, debug)
    except OrdtoolError as error:
        return _fail(error.message, error.hint, error.exit_code, debug)
    except TyperException as error:
        return 2 if rank() else _usage(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return _broken_pipe()
    except SystemExit as error:
        # Typer turns a broken pipe into a silent exit 1.
        if isinstance(error.__context__, BrokenPipeError):
            return _broken_pipe()
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        if _is_out_of_memory(error):
            return _fail("out of memory", "try a smaller --batch-size, or fewer dimensions", 1, debug)
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM and error.strerror:
            name = "" if error.filename is None else f"{error.filename}: "
            return _fail(f"{name}{error.strerror}", None, 1, debug)
        if debug:
            raise
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        return _fail(
            f"unexpected: {what}", "this is a bug; run again with --debug for the traceback", 1, debug
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch says so in an error of its own on a GPU, and in words alone on a CPU."""
    words = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "bad_alloc",
        "Storage size calculation",
    )
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))


def _hold_back(number: int) -> None:
    """Keep a rank that isn't the main one from writing data and telling anything but its errors."""
    if number:
        from ordtool import console

        console.only_errors_of(number)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)


def _fail(message: str, hint: str | None, status: int, debug: bool) -> int:
    from ordtool import console

    if debug:
        traceback.print_exc()
    console.error(" ".join(message.splitlines()), hint)
    return status


def _usage(error: Exception, debug: bool) -> int:
    """Print what Typer found wrong with the command line, with the command whose help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ordtool"
    message = getattr(error, "format_message", lambda: str(error))()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(message + "\n")
        return 2
    return _fail(message, f"{path} --help", getattr(error, "exit_code", 2), debug)


def _interrupted() -> int:
    sys.stderr.write("\n")
    return INTERRUPTED


def _broken_pipe() -> int:
    """Keep Python from complaining when it flushes stdout at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


__all__ = ["COMMANDS", "app", "main"]
