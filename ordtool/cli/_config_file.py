"""Configuration files: `--config FILE` and `--save-config FILE`, which every command has.

A file is TOML: keys named as options, flat or in the section of a command (`[embed]`, `[train.ladder]`). What stands on the
line, or in the environment, goes before it; click's `default_map` sees to that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from ordtool.cli.options import option
from ordtool.errors import OrdtoolError, UsageError, close_match_hint

PANEL = "Configuration"
_FILE, _TARGET = "ordtool.config", "ordtool.save_config"  # in a context's `meta`
_OWN = {"config", "save_config", "help"}
_SUBCOMMANDS = {"whiten": ["whiten-merge"]}  # of commands that are no groups
_FOR_ONE_RUN = {"force", "resume"}  # permissions, which a file would give to every run


def config_options() -> list[Any]:
    """Return the options `--config` and `--save-config`, to be added to a command's own."""

    def carry(
        config: Annotated[
            Path | None,
            option(
                "Options from a TOML file; those on the line go before it.",
                PANEL,
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_read,
            ),
        ] = None,
        save_config: Annotated[
            Path | None,
            option(
                "Write the options in effect to a TOML file, and run.",
                PANEL,
                metavar="FILE",
                expose_value=False,
                callback=_remember,
            ),
        ] = None,
    ) -> None:
        """Stand for a command, so that Typer makes the options."""

    app = typer.Typer(add_completion=False)
    app.command()(carry)
    return [param for param in get_command(app).params if param.name in ("config", "save_config")]


def _remember(ctx: typer.Context, value: Path | None) -> None:
    ctx.meta[_TARGET] = value


def _read(ctx: typer.Context, value: Path | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    ctx.meta[_FILE] = value
    ctx.default_map = settings_for(value, ctx)


def settings_for(file: Path, ctx: typer.Context) -> dict[str, Any]:
    """Read what a configuration file says to a command, by the names of its parameters.

    Raises:
        UsageError: For a file that is missing or no TOML, and for sections and keys that mean nothing.
    """
    params = _by_key(ctx.command.params)
    found: dict[str, Any] = {}
    for group, table in _tables(file, _load(file), list(_path(ctx))):
        names = [] if group is None else [*group.list_commands(ctx)]
        names += [name for command in names for name in _SUBCOMMANDS.get(command, ())]
        for key, value in table.items():
            if group is not None and (isinstance(value, dict) or key in names):
                _check_section(file, key, value, names)
                continue
            param = params.get(key.replace("-", "_"))
            if param is None or isinstance(value, dict):
                raise UsageError(
                    f"{file}: {ctx.command_path} has no option {key!r}",
                    close_match_hint(key.replace("_", "-"), [name.replace("_", "-") for name in params]),
                )
            found[param.name] = _as_option(param, value)
    return found


def _check_section(file: Path, name: str, value: Any, names: Sequence[str]) -> None:
    if name not in names:
        raise UsageError(f"{file}: unknown section [{name}]", close_match_hint(name, names))
    if not isinstance(value, dict):
        raise UsageError(f"{file}: {name!r} must be a section", f"[{name}] on a line of its own")


def _path(ctx: Any) -> Iterator[tuple[Any, str]]:
    """Yield groups and the name of what was chosen of each, from the top."""
    parent = ctx.parent
    if parent is not None:
        yield from _path(parent)
        yield parent.command, str(ctx.info_name).replace(" ", "-")


def _tables(
    file: Path, document: dict[str, Any], path: Sequence[tuple[Any, str]]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the tables that hold for a command, the most general first, each with its group; the last has none."""
    table: Any = document
    for group, name in path:
        yield (group if hasattr(group, "list_commands") else None), table
        table = table.get(name, {})
    yield None, table


def _load(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: can't be read: {error.strerror}", "is the name right?") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: no TOML: {error}", 'such as: model = "minilm"') from None


def _by_key(params: Sequence[Any]) -> dict[str, Any]:
    """Name parameters as keys may: by their own name, and by any of their long options."""
    found: dict[str, Any] = {}
    for param in params:
        if param.name not in _OWN:
            longs = [name[2:].replace("-", "_") for name in param.opts if name.startswith("--")]
            found |= dict.fromkeys((param.name, *longs), param)
    return found


def _as_option(param: Any, value: Any) -> Any:
    """Turn a TOML value into what the line would give: `A,B` of a list, a list of one value, where that is asked for."""
    values = [_word(item) for item in (value if isinstance(value, list) else [value])]
    if getattr(param, "multiple", False) or param.nargs != 1:
        return values
    return value if isinstance(value, bool) and param.is_flag else ",".join(values)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_file(ctx: typer.Context, error: Exception) -> OrdtoolError | None:
    """Say that a value which a command refuses stands in the configuration file; None if it doesn't."""
    file, param = ctx.meta.get(_FILE), getattr(error, "param", None)
    if file is None or param is None or param.name not in (ctx.default_map or {}):
        return None
    source = ctx.get_parameter_source(param.name)
    if source is None or source.name != "DEFAULT_MAP":
        return None
    return UsageError(f"{file}: {getattr(error, 'format_message', lambda: str(error))()}")


def save_settings(ctx: typer.Context) -> None:
    """Write the options in effect to where `--save-config` says, if it was given.

    Raises:
        OrdtoolError: If the file exists and there is no `--force`.
    """
    target = ctx.meta.get(_TARGET)
    if target is None:
        return
    from ordtool import __version__
    from ordtool.io.atomic import atomic_output

    section = ".".join(name for _, name in _path(ctx))
    lines = [f"# {ctx.command_path}, ordtool {__version__}", f"[{section}]"]
    for param in ctx.command.params:
        value = ctx.params.get(param.name)
        if value is not None and param.name not in _OWN | _FOR_ONE_RUN:
            lines.append(f"{param.name.replace('_', '-')} = {_toml(value)}")
    with atomic_output(target, force=bool(ctx.params.get("force"))) as out:
        out.write("".join(f"{line}\n" for line in lines).encode())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's strings are TOML's, but for one control character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
