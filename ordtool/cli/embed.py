"""`ordtool embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ordtool.cli.options import (
    OUT,
    RAY,
    RUN,
    Compile,
    Device,
    Dtype,
    Field,
    Force,
    GpusPerWorker,
    Inputs,
    Json,
    Model,
    OnError,
    Output,
    Quiet,
    Ray,
    Resume,
    Threads,
    Workers,
    option,
    usual_values,
)

VECTOR = "The vector of a text"
AFTER = "After the model"
POOLINGS = ["cls", "mean", "max", "last", "mean-sqrt", "weighted-mean", "pooler", "first-last"]


@usual_values(RAY)
def embed(
    inputs: Inputs = None,
    model: Model = "minilm",
    pooling: Annotated[
        str | None,
        option(
            f"{', '.join(POOLINGS)}; several with commas stand side by side.  [default: the model's own, or mean]",
            VECTOR,
            autocompletion=lambda: POOLINGS,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        option(
            "Average these layers (0: the embeddings, -1: the last); `all`: a folder with a file a layer.",
            VECTOR,
            metavar="1,-1",
        ),
    ] = None,
    skip_first: Annotated[
        int | None,
        option("Tokens at the start that aren't pooled.  [default: 1 for causal LMs, else 0]", VECTOR, min=0),
    ] = None,
    prompt: Annotated[
        str | None, option("One of the model's prompts by name, or a text to put first.", VECTOR)
    ] = None,
    max_length: Annotated[
        int | None, option("Tokens of a text to read.  [default: the model's own]", VECTOR, min=1)
    ] = None,
    normalize: Annotated[
        bool | None,
        option("Scale vectors to length 1.  [default: the model's own]", AFTER, "--normalize/--no-normalize"),
    ] = None,
    dims: Annotated[int | None, option("Numbers to keep; with --whiten, directions.", AFTER, min=1)] = None,
    whiten: Annotated[
        bool, option("Fit a whitening on these vectors and apply it.", AFTER, "--whiten")
    ] = False,
    transform: Annotated[
        Path | None, option("Apply what `ordtool whiten --save` fitted.", AFTER, metavar="FILE")
    ] = None,
    precision: Annotated[
        str,
        option(
            "float32, float16, or int8 (directions kept, lengths not).",
            AFTER,
            autocompletion=lambda: ["float32", "float16", "int8"],
        ),
    ] = "float32",
    field: Field = "text",
    on_error: OnError = "stop",
    shard: Annotated[
        str | None, option("Only the i-th of N equal parts of the input.", RUN, metavar="i/N")
    ] = None,
    batch_tokens: Annotated[
        int | None, option("Tokens a batch.  [default: 1024 on a CPU, 32768 on a GPU]", RUN, min=1)
    ] = None,
    batch_size: Annotated[
        int | None, option("Texts a batch at most.  [default: as many as --batch-tokens hold]", RUN, min=1)
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    compile: Compile = False,
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    output: Output = None,
    format: Annotated[
        str | None,
        option(
            "npy, jsonl, csv, parquet or arrow.  [default: by the name of -o, else npy]",
            OUT,
            autocompletion=lambda: ["npy", "jsonl", "csv", "parquet", "arrow"],
        ),
    ] = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Turn texts into vectors with any Hugging Face encoder or language model.

    A row a text, in order: NPY with `-o x.npy` or to a pipe, JSON lines with a `vector` (`--json`, `-o x.jsonl`),
    or a table (`-o x.csv`, `-o x.parquet`, `-o x.arrow`). Inputs may be larger than memory; of 4,096 texts identical ones
    are computed once.

    Examples:
        ordtool embed examples/notes.txt -m static -o notes.npy
        ordtool embed examples/questions.jsonl -m static --json --dims 3
        ordtool embed examples/questions.jsonl -m static | ordtool whiten --dims 8 > white.npy
    """
    from ordtool import console
    from ordtool.errors import UsageError

    format = "jsonl" if json else format
    if output is None and format not in ("jsonl", "csv") and console.stdout_is_terminal():
        raise UsageError(
            "vectors are not written to a terminal", "name a file with -o x.npy, pipe them on, or use --json"
        )
    from ordtool.embedding.embed_config import EmbedConfig
    from ordtool.embedding.embed_job import embed_files
    from ordtool.embedding.encoder import EncoderConfig
    from ordtool.sharding.run import Scale

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
        compile=compile,
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
        scale=Scale(workers, ray, gpus_per_worker, threads),
        resume=resume,
        force=force,
    )
    embed_files(config, console.RichProgress(quiet))
