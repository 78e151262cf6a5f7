"""`ordtool whiten` and `ordtool whiten merge`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ordtool.cli._command import Command
from ordtool.cli._lazy import typer_app
from ordtool.cli.options import (
    OUT,
    RAY,
    RUN,
    Force,
    Output,
    Quiet,
    Ray,
    Threads,
    Workers,
    option,
    usual_values,
)

MAP = "The map"
TRANSFORM = "The fitted transform"

Dims = Annotated[int | None, option("Columns to keep: directions of most variance.", MAP, "--dims", min=1)]
Beta = Annotated[
    float | None, option("Share of the mean to subtract.  [default: 1]", MAP, "--beta", min=0, max=1)
]
Gamma = Annotated[
    float | None, option("Share of the spread to equalise.  [default: 1]", MAP, "--gamma", min=0, max=1)
]
Method = Annotated[
    str | None,
    option(
        "pca, zca, cholesky, or abtt (all but the top).  [default: pca]",
        MAP,
        "--method",
        autocompletion=lambda: ["pca", "zca", "cholesky", "abtt"],
    ),
]
Ridge = Annotated[float | None, option("Added to every variance.", MAP, "--ridge", min=0)]
Shrinkage = Annotated[
    str | None,
    option(
        "0 to 1, or `oas` to estimate it: pulls variances to their average, for few rows.",
        MAP,
        "--shrinkage",
        metavar="WEIGHT",
    ),
]
Remove = Annotated[
    int | None, option("Directions that abtt removes.  [default: columns / 100]", MAP, "--remove", min=0)
]
Normalize = Annotated[bool | None, option("Scale every row to length 1.", MAP, "--normalize/--no-normalize")]
Standardize = Annotated[
    bool | None,
    option(
        "Divide every column by its standard deviation first: for columns of different units.",
        MAP,
        "--standardize/--no-standardize",
    ),
]

Covariance = Annotated[
    str | None,
    option(
        "What a beta under 1 whitens: shifted (of x - beta mean), or centred (of x - mean).  [default: shifted]",
        MAP,
        "--covariance",
        autocompletion=lambda: ["shifted", "centred"],
    ),
]


class _WithMerge(Command):
    """A plain command with one subcommand: `whiten merge ...` is merge, anything else is whiten."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args[:1] == ["merge"]:
            from typer.main import get_command

            return get_command(merge_app).make_context(f"{info_name} merge", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


app = typer_app()
merge_app = typer_app()


@app.command("whiten", cls=_WithMerge)
@usual_values(RAY)
def whiten(
    npy: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NPY...",
            help="Vectors, a row each; none or `-` is stdin. Several files are one set.",
            show_default=False,
        ),
    ] = None,
    dims: Dims = None,
    beta: Beta = None,
    gamma: Gamma = None,
    method: Method = None,
    ridge: Ridge = None,
    shrinkage: Shrinkage = None,
    remove: Remove = None,
    normalize: Normalize = None,
    standardize: Standardize = None,
    covariance: Covariance = None,
    save: Annotated[
        Path | None, option("Write the transform (safetensors).", TRANSFORM, metavar="FILE")
    ] = None,
    transform: Annotated[Path | None, option("Apply this one, don't fit.", TRANSFORM, metavar="FILE")] = None,
    export: Annotated[
        Path | None,
        option(
            "Write a sentence-transformers model that ends with the transform.", TRANSFORM, metavar="FOLDER"
        ),
    ] = None,
    model: Annotated[
        str | None, option("The model to export, which made the vectors.", TRANSFORM, "--model -m")
    ] = None,
    pooling: Annotated[
        str | None,
        option("Pooling of the exported model: cls, mean, max, last.  [default: its own]", TRANSFORM),
    ] = None,
    plot: Annotated[
        Path | None, option("Draw the spectrum before and after: .png, .svg or .pdf.", OUT, metavar="FILE")
    ] = None,
    output: Output = None,
    precision: Annotated[str, option("auto, float32, float16 or float64.", OUT)] = "auto",
    threads: Threads = None,
    device: Annotated[str, option("cpu, or cuda for wide vectors.", RUN, envvar="ORDTOOL_DEVICE")] = "cpu",
    workers: Workers = None,
    ray: Ray = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Whiten vectors: zero mean, unit variance in every direction, no correlation.

    Reads NPY and writes NPY, piece by piece, of any size; several files are one set, in their order. `--save` keeps
    the fitted transform and `--transform` applies it to other vectors; with `--save` or `--export`, vectors are written
    only where `-o` says so.

    `ordtool whiten merge A B -o C` merges transforms fitted on parts (see `ordtool whiten merge --help`).

    Examples:
        ordtool embed examples/questions.jsonl -m static | ordtool whiten --dims 8 > white.npy
        ordtool embed examples/questions.jsonl -m static | ordtool whiten --save map.safetensors
        ordtool embed examples/notes.txt -m static | ordtool whiten --transform map.safetensors -o notes.npy
    """
    _limit_threads(threads)
    from ordtool.console import RichProgress
    from ordtool.embedding import whitening_job

    progress = RichProgress(quiet)
    given = {
        "dims": dims,
        "beta": beta,
        "gamma": gamma,
        "method": method,
        "ridge": ridge,
        "shrinkage": _weight(shrinkage),
        "remove": remove,
        "normalize": normalize,
        "standardize": standardize,
        "covariance": covariance,
    }
    config = whitening_job.WhitenConfig(
        source=npy or "-",
        output=output,
        options={name: value for name, value in given.items() if value is not None},
        transform=transform,
        save=save,
        export=export,
        model=_model_folder(model, progress),
        pooling=pooling,
        plot=plot,
        precision=precision,
        threads=threads,
        device=device if device.startswith("cuda") else "cpu",
        workers=workers,
        ray=ray,
        force=force,
    )
    whitening_job.whiten(config, progress)


@merge_app.command("merge", cls=Command)
def merge(
    transforms: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Transforms that `ordtool whiten --save` wrote.")
    ],
    output: Annotated[Path, option("The merged transform.", OUT, "--output -o", metavar="FILE")],
    dims: Dims = None,
    beta: Beta = None,
    gamma: Gamma = None,
    method: Method = None,
    ridge: Ridge = None,
    shrinkage: Shrinkage = None,
    remove: Remove = None,
    normalize: Normalize = None,
    standardize: Standardize = None,
    covariance: Covariance = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Merge transforms fitted on parts of a set into the transform of the whole set.

    The statistics are added up, so the result is that of one pass over all rows. Options are those of the parts
    unless given here.

    Examples:
        ordtool embed examples/questions.jsonl -m static | ordtool whiten --save a.safetensors
        ordtool embed examples/story.txt -m static | ordtool whiten --save b.safetensors
        ordtool whiten merge a.safetensors b.safetensors -o all.safetensors
    """
    from ordtool.console import RichProgress
    from ordtool.embedding import whitening_job

    given = {
        "dims": dims,
        "beta": beta,
        "gamma": gamma,
        "method": method,
        "ridge": ridge,
        "shrinkage": _weight(shrinkage),
        "remove": remove,
        "normalize": normalize,
        "standardize": standardize,
        "covariance": covariance,
    }
    options = {name: value for name, value in given.items() if value is not None}
    whitening_job.merge(transforms, output, options, force=force, progress=RichProgress(quiet))


def _weight(shrinkage: str | None) -> float | str | None:
    """A number where it is one; anything else is for the engine to judge."""
    try:
        return None if shrinkage is None else float(shrinkage)
    except ValueError:
        return shrinkage


def _model_folder(model: str | None, progress: Any) -> Path | None:
    if model is None:
        return None
    from ordtool.models.resolve import resolve_model

    return resolve_model(model, progress, kind="encoder")


def _limit_threads(threads: int | None) -> None:
    """Numpy's BLAS reads these once, when it is first imported, which is after this."""
    if threads is not None:
        for library in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
            os.environ[f"{library}_THREADS"] = str(threads)
