"""What every command has beside its own options: a configuration file, old and other names of options, a plain help."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from typer.core import TyperArgument, TyperCommand
from typer.exceptions import TyperException

from ordtool.cli._config_file import config_options, name_file, save_settings
from ordtool.cli.options import (
    check_numbers,
    check_outputs,
    current_options,
    known_options,
    with_usual_values,
)
from ordtool.distributed import check_one_rank

_EXAMPLES = "Examples:"
_OUTPUTS = ("output", "save", "plot", "details", "metrics", "gates", "save_config")


class Command(TyperCommand):
    """A command of ordtool.

    It reads and writes configuration files, knows the old names of its options (see `renamed_options`) and other names that
    people type, takes no NaN for a number, and prints a help with plain types and its examples at the end, a line each. The
    examples stand under `Examples:` at the end of the docstring.

    Attributes:
        examples: Lines for a shell.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        text, _, examples = (self.help or "").partition(_EXAMPLES)
        self.help = text.strip()
        self.examples = [line.strip() for line in examples.splitlines() if line.strip()]
        self.params = [*self.params, *config_options()]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        renamed = getattr(self.callback, "renamed_options", {})
        usual = getattr(self.callback, "usual_values", {})
        options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        try:
            current = with_usual_values(current_options(args, renamed), usual)
            rest: list[str] = super().parse_args(ctx, known_options(current, options))
        except TyperException as error:
            raise name_file(ctx, error) or error from None
        check_numbers({param.opts[0]: ctx.params.get(param.name) for param in self.params})
        inputs = [ctx.params.get(param.name) for param in self.params if isinstance(param, TyperArgument)]
        check_outputs({name: ctx.params.get(name) for name in _OUTPUTS}, inputs)
        save_settings(ctx)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the line of usage says after the command's name: `[OPTIONS] NPY [FILE...]`."""
        pieces = [str(self.options_metavar)]
        for param in self.params:
            if isinstance(param, TyperArgument) and not param.hidden:
                name = _argument_name(param)
                pieces.append(name if param.required else f"[{name}]")
        return pieces

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with plain_types(self.get_params(ctx)):
            super().format_help(ctx, formatter)
        if self.examples:
            sys.stdout.write(" Examples\n" + "".join(f"   {line}\n" for line in self.examples) + "\n")

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is said of parameters names the options that set them."""
        from ordtool import console

        if not getattr(self.callback, "takes_ranks", False):
            check_one_rank(str(ctx.command_path))
        options = {
            param.name: (param.opts[0], "".join(param.secondary_opts[:1]))
            for param in self.params
            if param.opts[0].startswith("-")
        }
        fields = getattr(self.callback, "field_options", {})
        console.name_options(options | {field: options[name] for field, name in fields.items()})
        return super().invoke(ctx)


class ModelCommand(Command):
    """A command that runs models: says once if a library's release was never tested."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        from ordtool.models.releases import untested_releases

        if untested := untested_releases():
            from ordtool import console

            console.warn(f"ordtool was not tested with {' and '.join(untested)}")
        return super().invoke(ctx)


def _argument_name(param: Any) -> str:
    name = str(param.metavar or param.name.upper()).rstrip(".")
    return name if param.nargs == 1 or " " in name else f"{name}..."


@contextmanager
def plain_types(params: Sequence[Any]) -> Iterator[None]:
    """Let the help say what a person types: FILE, TEXT, N; nothing of a switch, and no ranges of numbers.

    Args:
        params: Of a command, which are as before at the end.
    """
    changed = [(param, dict(vars(param))) for param in params]
    try:
        for param in params:
            if isinstance(param, TyperArgument):
                param.metavar = _argument_name(param)
                vars(param)["display_type_rich"] = _no_type
            elif param.metavar is None:
                param.metavar = "" if param.is_flag else _type_name(param)
            param.min = param.max = None
        yield
    finally:
        for param, before in changed:
            vars(param).clear()
            vars(param).update(before)


def _no_type(ctx: Any) -> str:
    return ""


def _type_name(param: Any) -> str:
    kind = param.type_descriptor.annotation
    if kind in (int, float):
        return "N"
    return "FILE" if param.type_descriptor.is_path else "TEXT"
