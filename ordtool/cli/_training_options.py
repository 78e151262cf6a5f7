"""Options that several training commands share, as `options` has those of all commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ordtool.cli.options import OUT

if TYPE_CHECKING:
    from ordtool.progress import Progress

TRAINING = "Training"
COMPARISON = "Comparison"

ModelFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="MODEL", help="The model folder to make.")
]
Epochs = Annotated[
    int, typer.Option("--epochs", min=1, help="Passes over the data.", rich_help_panel=TRAINING)
]
Accumulate = Annotated[
    int, typer.Option("--accumulate", min=1, help="Batches an update.", rich_help_panel=TRAINING)
]
LearningRate = Annotated[
    float, typer.Option("--learning-rate", "--lr", min=0, help="At its peak.", rich_help_panel=TRAINING)
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        min=1,
        help="Dev losses without a better one before it stops.  [default: never]",
        rich_help_panel=TRAINING,
    ),
]
ResumeTraining = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the last checkpoint in MODEL.partial.", rich_help_panel=OUT),
]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Seeds a method.", rich_help_panel=COMPARISON)]
MatmulDtype = Annotated[
    str,
    typer.Option("--dtype", envvar="ORDTOOL_DTYPE", help="Of matrix products: auto, float32 or bfloat16."),
]
Half = Annotated[bool, typer.Option("--half", help="Save the weights as float16.")]


def say_trained(output: Path, figures: str, following: str, progress: Progress) -> None:
    """End a training: name the folder and how good the model is, then the command that uses it.

    Args:
        output: The folder.
        figures: How good.
        following: The next command, where `MODEL` stands for the folder.
        progress: Who is told.
    """
    progress.note(f"{output}: {figures}")
    progress.note(f"next: {following.replace('MODEL', shlex.quote(str(output)))}")
