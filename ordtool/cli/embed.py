"""`ordtool embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ordtool.cli.options import (
    OUT,
    RUN,
    Device,
    Dtype,
    Field,
    Force,
    Inputs,
    Json,
    Model,
    OnError,
    Output,
    Quiet,
    Resume,
    Threads,
)

VECTOR = "The vector of a text"
AFTER = "After the model"
POOLINGS = ["cls", "mean", "max", "last", "mean-sqrt", "weighted-mean", "pooler", "first-last"]


def embed(
    inputs: Inputs = None,
    model: Model = "minilm",
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling",
            help=f"{', '.join(POOLINGS)}; several with commas stand side by side.  [default: the model's own, or mean]",
            rich_help_panel=VECTOR,
            autocompletion=lambda: POOLINGS,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="1,-1",
            help="Average these layers (0: the embeddings, -1: the last); `all`: a folder with a file a layer.",
            rich_help_panel=VECTOR,
        ),
    ] = None,
    skip_first: Annotated[
        int | None,
        typer.Option(
            "--skip-first",
            min=0,
            help="Tokens at the start that aren't pooled.  [default: 1 for causal LMs, else 0]",
            rich_help_panel=VECTOR,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="One of the model's prompts by name, or a text to put first.",
            rich_help_panel=VECTOR,
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            min=1,
            help="Tokens of a text to read.  [default: the model's own]",
            rich_help_panel=VECTOR,
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Scale vectors to length 1.  [default: the model's own]",
            rich_help_panel=AFTER,
        ),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(
            "--dims", min=1, help="Numbers to keep; with --whiten, directions.", rich_help_panel=AFTER
        ),
    ] = None,
    whiten: Annotated[
        bool,
        typer.Option(
            "--whiten", help="Fit a whitening on these vectors and apply it.", rich_help_panel=AFTER
        ),
    ] = False,
    transform: Annotated[
        Path | None,
        typer.Option(
            "--transform",
            metavar="FILE",
            help="Apply what `ordtool whiten --save` fitted.",
            rich_help_panel=AFTER,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="float32, float16, or int8 (directions kept, lengths not).",
            rich_help_panel=AFTER,
            autocompletion=lambda: ["float32", "float16", "int8"],
        ),
    ] = "float32",
    field: Field = "text",
    on_error: OnError = "stop",
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="i/N", help="Only the i-th of N equal parts of the input.", rich_help_panel=RUN
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--batch-tokens",
            min=1,
            help="Tokens a batch.  [default: 1024 on a CPU, 32768 on a GPU]",
            rich_help_panel=RUN,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Texts a batch at most.  [default: as many as --batch-tokens hold]",
            rich_help_panel=RUN,
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    output: Output = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="npy, jsonl, csv or parquet.  [default: by the name of -o, else npy]",
            rich_help_panel=OUT,
            autocompletion=lambda: ["npy", "jsonl", "csv", "parquet"],
        ),
    ] = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Turn texts into vectors with any Hugging Face encoder or language model.

    A row a text, in order: NPY with `-o x.npy` or to a pipe, JSON lines with a `vector` (`--json`, `-o x.jsonl`),
    or a table (`-o x.csv`, `-o x.parquet`). Inputs may be larger than memory; identical texts are computed once.

    Examples:
        ordtool embed examples/notes.txt -m static -o notes.npy
        ordtool embed examples/questions.jsonl -m static --json --dims 3
        ordtool embed examples/questions.jsonl -m static | ordtool whiten --dims 8 > white.npy
    """
    from ordtool import console
    from ordtool.cli.options import options_for_fields
    from ordtool.errors import UsageError

    format = "jsonl" if json else format
    if output is None and format not in ("jsonl", "csv") and console.stdout_is_terminal():
        raise UsageError(
            "vectors are not written to a terminal", "name a file with -o x.npy, pipe them on, or use --json"
        )
    from ordtool.embedding.embed_config import EmbedConfig
    from ordtool.embedding.embed_job import embed_files
    from ordtool.embedding.encoder import EncoderConfig

    with options_for_fields(EncoderConfig), options_for_fields(EmbedConfig):
        encoder = EncoderConfig(
            model=model,
            pooling=pooling,
            layers=layers,
            skip_first=skip_first,
            prompt=prompt,
            max_length=max_length,
            normalize=normalize,
            device=device,
            dtype=dtype,
            threads=threads,
            batch_tokens=batch_tokens,
            batch_size=batch_size,
        )
        config = EmbedConfig(
            encoder=encoder,
            inputs=tuple(inputs or ()),
            field=field,
            output=output,
            format=format,
            dims=dims,
            precision=precision,
            whiten=whiten,
            transform=transform,
            on_error=on_error,
            shard=shard,
            resume=resume,
            force=force,
        )
        embed_files(config, console.RichProgress(quiet))
