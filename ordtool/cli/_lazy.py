"""Groups whose commands are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command as build_command

from ordtool.cli.options import check_numbers, current_options
from ordtool.errors import UsageError, close_match_hint

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
WITHOUT_MODELS = {"ordtool.cli.score_trees:trees", "ordtool.cli.score_text:text"}
"""Commands that count and compare: what releases of torch and transformers do is nothing to them."""


def lazy_group(commands: Mapping[str, str]) -> type[TyperGroup]:
    """Make a group class over `name -> "module:attribute"`.

    The attribute is a function (a command) or a `typer.Typer` (a group). Nothing is
    imported until the command is run, or listed by `--help`.
    """

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return load(cmd_name, commands[cmd_name]) if cmd_name in commands else None

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name = args[0]
            if name not in commands and not name.startswith("-"):
                raise UsageError(
                    f"no such command: {ctx.command_path} {name}", close_match_hint(name, commands)
                )
            return super().resolve_command(ctx, args)

    return LazyGroup


class Command(TyperCommand):
    """A command that knows the old names of its options, and those of its config's fields, and takes no NaN for a number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        parsed: list[str] = super().parse_args(
            ctx, current_options(args, getattr(self.callback, "renamed_options", {}))
        )
        check_numbers({param.opts[0]: ctx.params.get(param.name) for param in self.params})
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is said of parameters names the options that set them."""
        from ordtool import console

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
        from ordtool.models.installed import untested_releases

        if untested := untested_releases():
            from ordtool import console

            console.warn(f"ordtool was not tested with {' and '.join(untested)}")
        return super().invoke(ctx)


def load(name: str, target: str) -> Any:
    """Import `module:attribute` and build its command, called `name`."""
    module, _, attribute = target.partition(":")
    entry = getattr(import_module(module), attribute)
    if not isinstance(entry, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode="markdown", context_settings=CONTEXT)
        kind = Command if target in WITHOUT_MODELS else ModelCommand
        app.command(name, cls=kind, no_args_is_help=False)(entry)
        entry = app
    command = build_command(entry)
    command.name = name
    return command
