"""What `--model` can name: a folder, a packaged model, a catalogue name or a hub id.

Nothing is ever executed from a model: weights are safetensors, never a pickle, and no
remote code is run. What a name needs is fetched at its first use, converted once and
kept; from then on no network is needed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import recover_directory
from ordtool.models.entries import KINDS, Entry, catalogue, model_folder, names_of_kind
from ordtool.progress import SILENT, Progress

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Models that got their names before the hub had organisations, and the organisation that each is under now.
_OLD_NAMES = {
    "google-bert": r"bert-(base|large)-(un)?cased|bert-base-multilingual-(un)?cased|bert-base-chinese",
    "openai-community": r"gpt2(-medium|-large|-xl)?|openai-gpt",
    "FacebookAI": r"(xlm-)?roberta-(base|large)",
    "distilbert": r"distilbert-base-(uncased|cased|multilingual-cased)|distilgpt2|distilroberta-base",
    "google-t5": r"t5-(small|base|large|3b|11b)",
    "albert": r"albert-(base|large|xlarge|xxlarge)-v[12]",
    "xlnet": r"xlnet-(base|large)-cased",
}


def resolve_model(name: str, progress: Progress = SILENT, *, kind: str | None = None) -> Path:
    """Turn what the user named into a local folder, fetching the model if needed.

    In order: an existing folder with a model in it; a packaged model; a catalogue name,
    fetched at its first use; a hub id `organisation/name`, or one that is older than
    organisations, such as `gpt2`.

    Args:
        name: A folder, a name of the catalogue, or a hub id.
        progress: Told where the model comes from, with a bar for the bytes.
        kind: What it must serve as (`encoder`, `causal`, `parser`); checked for
            catalogue names, whose kind is known.

    Returns:
        A folder with a configuration and safetensors weights.

    Raises:
        UsageError: For an unknown name, or a catalogue model of another kind.
        OrdtoolError: If the folder holds no model or only pickled weights, or if the
            model could not be fetched.
    """
    folder = Path(name).expanduser()
    entry = catalogue().get(name)
    if not os.path.lexists(folder):
        recover_directory(folder)
    if _is_model(folder) or (folder.is_dir() and entry is None):
        return check_folder(folder)
    if entry is not None:
        return _resolve_entry(entry, progress, kind)
    if _HUB_ID.fullmatch(name):
        return _resolve_hub_id(name, progress)
    if "/" in name or os.sep in name or folder.exists():
        raise OrdtoolError(f"{name}: no such model folder", "ordtool models list names what needs no folder")
    organisation = _organisation(name)
    if organisation is not None and kind != "parser":
        progress.note(f"{name} is {organisation}/{name} on the hub")
        return _resolve_hub_id(f"{organisation}/{name}", progress)
    raise UsageError(f"unknown model {name!r}", _unknown_hint(name, kind))


def _organisation(name: str) -> str | None:
    return next((owner for owner, names in _OLD_NAMES.items() if re.fullmatch(names, name)), None)


def _unknown_hint(name: str, kind: str | None) -> str:
    """Say what was probably meant: the model that a hub id ends in, or a name that is close."""
    for entry in catalogue().values():
        if entry.hub and entry.hub.partition("/")[2].lower() == name.lower() and entry.serves(kind):
            return f"did you mean {entry.name!r} ({entry.hub} on the hub)?"
    more = "or a folder" if kind == "parser" else "or a folder, or a hub id such as organisation/name"
    return f"{close_match_hint(name, names_of_kind(kind))}; {more}"


def check_folder(folder: Path) -> Path:
    """Check that a folder holds a model that can be loaded safely.

    Args:
        folder: A Hugging Face or sentence-transformers model folder.

    Returns:
        The folder.

    Raises:
        OrdtoolError: If there is no configuration, no weights, or only pickled ones.
    """
    if not _is_model(folder):
        raise OrdtoolError(
            f"{folder}: not a model folder (neither config.json nor modules.json in it)",
            "a model folder is what save_pretrained or ordtool train writes",
        )
    files = [*folder.iterdir(), *(file for sub in folder.iterdir() if sub.is_dir() for file in sub.iterdir())]
    if any(file.suffix == ".safetensors" for file in files):
        return folder
    pickled = [file for file in files if file.suffix in _PICKLES]
    if pickled:
        raise OrdtoolError(
            f"{folder}: the weights are pickled ({pickled[0].name}), which ordtool never loads",
            "take a safetensors version of the model, or convert it where you trust it: "
            "AutoModel.from_pretrained(folder).save_pretrained(new_folder)",
        )
    raise OrdtoolError(f"{folder}: no weights in it (*.safetensors)", "was the copy or download cut short?")


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def _resolve_entry(entry: Entry, progress: Progress, kind: str | None) -> Path:
    if kind is not None and not entry.serves(kind):
        raise UsageError(
            f"the model {entry.name!r} is {' and '.join(KINDS[one] for one in entry.kinds)}, "
            f"and {KINDS[kind]} is needed here",
            "choices: " + ", ".join(names_of_kind(kind)),
        )
    folder = model_folder(entry)
    if _is_model(folder):
        return check_folder(folder)
    if entry.packaged:
        raise OrdtoolError(
            f"the packaged model {entry.name!r} is missing from this installation", "install ordtool again"
        )
    from ordtool.models.download.pull import pull

    return check_folder(pull(entry, progress))


def _resolve_hub_id(name: str, progress: Progress) -> Path:
    from ordtool.models.download.hub import HubError, cached_snapshot, download_snapshot

    folder = cached_snapshot(name)
    if folder is not None and _is_model(folder):
        return check_folder(folder)
    try:
        return check_folder(download_snapshot(name, progress))
    except HubError as error:
        raise OrdtoolError(
            f"no folder {name!r} here, and the hub did not give the model {name!r}: {error}",
            "check the spelling, or copy the model's folder here and name it; ordtool models list names others",
        ) from None
