"""Groups whose commands are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command as build_command

from ordtool.cli._command import Command, ModelCommand, plain_types
from ordtool.errors import UsageError, close_match_hint

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
typer_app = partial(typer.Typer, add_completion=False, rich_markup_mode="markdown", context_settings=CONTEXT)
"""A group of commands, or a command alone, as all of ours are."""
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

        def format_help(self, ctx: Any, formatter: Any) -> None:
            with plain_types(self.get_params(ctx)):
                super().format_help(ctx, formatter)

    return LazyGroup


def load(name: str, target: str) -> Any:
    """Import `module:attribute` and build its command, called `name`."""
    module, _, attribute = target.partition(":")
    entry = getattr(import_module(module), attribute)
    if not isinstance(entry, typer.Typer):
        app = typer_app()
        kind = Command if target in WITHOUT_MODELS else ModelCommand
        app.command(name, cls=kind, no_args_is_help=False)(entry)
        entry = app
    command = build_command(entry)
    command.name = name
    return command
