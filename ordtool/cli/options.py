"""Options that several commands share: one spelling, one meaning, one help text.

Each is an `Annotated` type for a Typer function; the default stands in the function.
`ORDTOOL_<NAME>` in the environment sets those that mean the same in every command.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ordtool.errors import UsageError

RUN = "Running"
OUT = "Output"
SCALE = "Sharing the work"


def option(help: str = "", panel: str | None = None, names: str = "", **rules: Any) -> Any:
    """Declare an option of a command.

    Args:
        help: What it does.
        panel: The head under which the help lists it; None: the command's main options.
        names: Its names, as in `--learning-rate --lr` or `--lowercase/--cased`; empty: that of the parameter.
        **rules: What Typer takes beside: `min`, `max`, `envvar`, `metavar`.
    """
    return typer.Option(*names.split(), help=help or None, rich_help_panel=panel, **rules)


Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE", help="Text, JSON lines or arrays, CoNLL-U, .gz too; none or `-` is stdin."
    ),
]
Model = Annotated[
    str, option("A folder, a name from `ordtool models list`, or a hub id.", names="--model -m")
]
Field = Annotated[
    str, option("The key of a JSONL object, or column of a table, that holds the text.", names="--field")
]
OnError = Annotated[
    str, option("A bad record: `stop`, or `skip` it and list it at the end.", names="--on-error")
]
Device = Annotated[str, option("auto, cpu, cuda, cuda:1 or mps.", RUN, "--device", envvar="ORDTOOL_DEVICE")]
Dtype = Annotated[str, option("auto, float32, bfloat16 or float16.", RUN, "--dtype", envvar="ORDTOOL_DTYPE")]
BatchSize = Annotated[int, option("Records a batch.", RUN, "--batch-size", min=1)]
BatchTokens = Annotated[int, option("Tokens a batch, padding included.", RUN, "--batch-tokens", min=1)]
Seed = Annotated[
    int, option("Of every random generator.", RUN, "--seed", envvar="ORDTOOL_SEED", min=0, max=2**32 - 1)
]
Threads = Annotated[
    int | None,
    option("CPU threads.  [default: one a core]", RUN, "--threads", envvar="ORDTOOL_THREADS", min=1),
]
Compile = Annotated[
    bool,
    option(
        "Let torch compile a model that has no fast code of its own here: for long jobs.", RUN, "--compile"
    ),
]
Output = Annotated[
    Path | None,
    option("Write here instead of stdout, whole or not at all.", OUT, "--output -o", metavar="FILE"),
]
ROW_FORMATS = ["jsonl", "csv", "parquet", "arrow"]
RowFormat = Annotated[
    str | None,
    option(
        "jsonl, csv, parquet or arrow.  [default: by the name of -o, else jsonl]",
        OUT,
        "--format",
        autocompletion=lambda: ROW_FORMATS,
    ),
]
Json = Annotated[bool, option("JSON lines, on a terminal too.", OUT, "--json")]
Quiet = Annotated[bool, option("No progress bar and no notes.", OUT, "--quiet -q", envvar="ORDTOOL_QUIET")]
Force = Annotated[bool, option("Replace an existing output.", OUT, "--force")]
Workers = Annotated[
    int | None,
    option("Processes that share the work, each with the model; with --ray its actors.", SCALE, min=1),
]
Ray = Annotated[
    str | None,
    option(
        "Share the work by Ray: at the ADDRESS of a cluster (`auto`, host:port, ray://...), else started here.",
        SCALE,
        "--ray",
        metavar="[ADDRESS]",
    ),
]
GpusPerWorker = Annotated[float, option("GPUs of an actor of Ray, or a part of one.", SCALE, min=0.0)]
Resume = Annotated[
    bool, option("Go on where an interrupted run of the same command stopped.", OUT, "--resume")
]


def check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity, which Python reads as numbers and no option means.

    Args:
        values: What was given, by the options' names; only floats are looked at.

    Raises:
        UsageError: Naming the option.
    """
    for option, value in values.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not isfinite(number):
                raise UsageError(f"{option} must be a number, not {number}", "give a finite one, such as 0.5")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Any]) -> None:
    """Refuse to write over what is read.

    Args:
        outputs: What is written, by the parameters' names.
        inputs: What is read: a name, or several.

    Raises:
        UsageError: Naming the option.
    """
    read = [name for given in inputs for name in (given if isinstance(given, list) else [given]) if name]
    for option, path in outputs.items():
        if path is not None and any(_is_same_file(path, name) for name in read):
            raise UsageError(f"--{option.replace('_', '-')} {path}: is an input too", "name another file")


def _is_same_file(path: Path, name: str | Path) -> bool:
    try:
        return os.path.isfile(path) and os.path.samefile(path, name)
    except (OSError, ValueError):
        return False


F = TypeVar("F", bound=Callable[..., None])


def renamed_options(names: Mapping[str, str]) -> Callable[[F], F]:
    """Let a command take old names of its options for one release; help doesn't list them.

    Args:
        names: Old name to new one, such as `{"--tilt": "--right-branching-bias"}`.
    """

    def mark(command: F) -> F:
        command.renamed_options = names  # type: ignore[attr-defined]
        return command

    return mark


def takes_ranks(command: F) -> F:
    """Let a command run in several processes that know of each other, as torchrun starts them."""
    command.takes_ranks = True  # type: ignore[attr-defined]
    return command


class RayAddress(Sequence[str]):
    """What may stand behind `--ray`: the address of a cluster; without one, Ray is started here."""

    _ADDRESS = re.compile(r"auto|local|(ray://)?[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self._ADDRESS.fullmatch(value) is not None

    def __getitem__(self, place: Any) -> Any:
        return ("local",)[place]

    def __len__(self) -> int:
        return 1


RAY = {"--ray": RayAddress()}


def usual_values(values: Mapping[str, Sequence[str]]) -> Callable[[F], F]:
    """Let options of a command stand without a value, as the switches that they were.

    Args:
        values: What each can have, the usual one first, such as `{"--talking-heads": ("both", "before", "after")}`.
    """

    def mark(command: F) -> F:
        command.usual_values = values  # type: ignore[attr-defined]
        return command

    return mark


def with_usual_values(args: Sequence[str], values: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a command's arguments with a value behind each option that has a usual one and stands alone."""
    end = args.index("--") if "--" in args else len(args)
    found = list(args[:end])
    for k in range(end - 1, -1, -1):
        choices = values.get(args[k])
        if choices is not None and (k + 1 == end or args[k + 1] not in choices):
            found.insert(k + 1, choices[0])
    return found + list(args[end:])


def field_options(**names: str) -> Callable[[F], F]:
    """Say which parameters of a command set the fields of a config that have other names.

    Args:
        **names: Field to parameter, such as `num_hidden_layers="layers"`.
    """

    def mark(command: F) -> F:
        command.field_options = names  # type: ignore[attr-defined]
        return command

    return mark


def current_options(args: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return a command's arguments with old option names replaced, and say so on stderr; what follows `--` stays."""
    end = args.index("--") if "--" in args else len(args)
    current = list(args)
    for k, argument in enumerate(args[:end]):
        old, equals, value = argument.partition("=")
        if old in names:
            current[k] = names[old] + equals + value
            sys.stderr.write(
                f"note: {old} is called {names[old]} now; the old name goes with the next release\n"
            )
    return current


OTHER_NAMES = {
    "--batch": "--batch-size",
    "--dim": "--dims",
    "--epoch": "--epochs",
    "--eval": "--dev",
    "--layer": "--layers",
    "--method": "--methods",
    "--n": "-n",
    "--out": "--output",
    "--permutation": "--permutations",
    "--temp": "--temperature",
    "--text": "--prompt",
    "--validation": "--dev",
}
"""What people type, to what it is called; a command that has an option of the first name means that one."""


def known_options(args: Sequence[str], options: Collection[str]) -> list[str]:
    """Return a command's arguments with other names of its options replaced; what follows `--` stays.

    Args:
        args: The arguments.
        options: The names that the command has.
    """
    end = args.index("--") if "--" in args else len(args)
    known = list(args)
    for k, argument in enumerate(args[:end]):
        name, equals, value = argument.partition("=")
        target = OTHER_NAMES.get(name)
        if target is not None and target in options and name not in options:
            known[k] = target + (equals if target.startswith("--") else "") + value
    return known
