"""What one run of `ordtool embed` does, and what it refuses before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ordtool.arguments import as_strings
from ordtool.embedding.encoder import EncoderConfig
from ordtool.embedding.outputs import FORMATS, PRECISIONS
from ordtool.errors import UsageError, close_match_hint
from ordtool.io.atomic import check_directory, check_output
from ordtool.io.inputs import STDIN, check_inputs, reads_once

_SUFFIXES = {".npy": "npy", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """What one run of `ordtool embed` does.

    Attributes:
        encoder: The model and how it is used.
        inputs: Text or JSONL files; none or `-` is stdin.
        field: The key of a JSONL object that holds the text.
        output: The file, or with `encoder.layers` = `all` the folder; None is stdout.
        form: `npy`, `jsonl`, `parquet`, or None: by the output's name, else `npy`.
        dims: Keep this many numbers of a vector; with `whiten`, this many directions.
        precision: `float32`, `float16` or `int8`.
        whiten: Fit a whitening on these very vectors and apply it.
        transform: A fitted whitening to apply.
        on_error: `stop` at a bad record, or `skip` it.
        shard: `i/N`: only the i-th of N equal parts of the input, from 1.
        resume: Go on where an interrupted run stopped.
        force: Replace an existing output.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    inputs: tuple[str, ...] = ()
    field: str = "text"
    output: Path | None = None
    form: str | None = None
    dims: int | None = None
    precision: str = "float32"
    whiten: bool = False
    transform: Path | None = None
    on_error: str = "stop"
    shard: str | None = None
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Take one path for several."""
        object.__setattr__(self, "inputs", as_strings(self.inputs))

    @property
    def from_stdin(self) -> bool:
        """Whether the input is, or has in it, a pipe."""
        return any(map(reads_once, self.inputs or (STDIN,)))


def check(config: EmbedConfig) -> str:
    """Refuse before any work what can't work.

    Returns:
        The output's form.

    Raises:
        UsageError: For unknown names and contradicting options.
        OrdtoolError: If an input is missing or the output can't be written.
    """
    form = _form(config)
    if config.precision not in PRECISIONS:
        raise UsageError(
            f"unknown precision {config.precision!r}", close_match_hint(config.precision, PRECISIONS)
        )
    if config.on_error not in ("stop", "skip"):
        raise UsageError(f"unknown --on-error {config.on_error!r}", "choices: stop, skip")
    _check_combinations(config, form)
    parse_shard(config.shard)
    if config.encoder.layers == "all":
        assert config.output is not None
        check_directory(config.output, force=config.force)
    else:
        check_output(config.output, force=config.force)
    check_inputs(config.inputs)
    if form == "parquet":
        from ordtool.runtime import require

        require("pyarrow", "parquet")
    return form


def _form(config: EmbedConfig) -> str:
    if config.form is not None:
        if config.form not in FORMATS:
            raise UsageError(f"unknown format {config.form!r}", close_match_hint(config.form, FORMATS))
        return config.form
    if config.output is None or config.encoder.layers == "all":
        return "npy"
    return _SUFFIXES.get(config.output.suffix.lower(), "npy")


def _check_combinations(config: EmbedConfig, form: str) -> None:
    all_layers = config.encoder.layers == "all"
    refused = [
        (all_layers and config.output is None, "--layers all writes a folder with a file a layer", "name it with -o"),
        (
            all_layers and (form != "npy" or config.whiten or config.transform is not None or config.resume),
            "--layers all writes NPY files as they come: no other format, whitening or --resume",
            "take one layer at a time, for example --layers 3",
        ),
        (
            config.whiten and config.transform is not None,
            "--whiten fits a transform and --transform applies one: choose",
            None,
        ),
        (
            config.whiten and config.resume,
            "--whiten fits on all vectors, so it can't be resumed",
            "in two steps: ordtool embed -o raw.npy --resume, then ordtool whiten raw.npy",
        ),
        (
            config.whiten and config.shard is not None,
            "--whiten would fit a different transform for each shard",
            "ordtool whiten --save on each shard's vectors, then ordtool whiten merge",
        ),
        (
            config.whiten and config.from_stdin and form != "npy",
            f"--whiten needs its records twice for {form}, and a pipe can be read once",
            "save the input in a file, or write NPY",
        ),
        (config.shard is not None and config.from_stdin, "--shard needs to know how long the input is", "save it in a file"),
    ]  # fmt: skip
    for wrong, message, hint in refused:
        if wrong:
            raise UsageError(message, hint)


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read `i/N` as the part's number from 1 and the number of parts; `(1, 1)` for None.

    Raises:
        UsageError: If it isn't that.
    """
    if text is None:
        return 1, 1
    part, slash, parts = text.partition("/")
    if not slash or not part.isdecimal() or not parts.isdecimal() or not 1 <= int(part) <= int(parts):
        raise UsageError(
            f"--shard {text}: a part and how many there are is expected", "--shard 1/4, 2/4, 3/4 and 4/4"
        )
    return int(part), int(parts)
