"""Options that several training commands share, as `options` has those of all commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ordtool.cli.options import OUT, option

if TYPE_CHECKING:
    from ordtool.progress import Progress

TRAINING = "Training"
COMPARISON = "Comparison"

ModelFolder = Annotated[Path, option("The model folder to make.", names="--output -o", metavar="MODEL")]
Epochs = Annotated[int, option("Passes over the data.", TRAINING, "--epochs", min=1)]
Accumulate = Annotated[int, option("Batches an update.", TRAINING, "--accumulate", min=1)]
LearningRate = Annotated[float, option("At its peak.", TRAINING, "--learning-rate --lr", min=0)]
Patience = Annotated[
    int | None,
    option(
        "Dev losses without a better one before it stops.  [default: never]", TRAINING, "--patience", min=1
    ),
]
ResumeTraining = Annotated[bool, option("Go on from the last checkpoint in MODEL.partial.", OUT, "--resume")]
Runs = Annotated[int, option("Seeds a method.", COMPARISON, "--runs", min=1)]
MatmulDtype = Annotated[
    str, option("Of matrix products: auto, float32 or bfloat16.", names="--dtype", envvar="ORDTOOL_DTYPE")
]
Half = Annotated[bool, option("Save the weights as float16.", names="--half")]


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
