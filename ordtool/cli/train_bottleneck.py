"""`ordtool train bottleneck`: a classifier without back-propagation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ordtool.cli._training_options import COMPARISON, TRAINING, Epochs, ResumeTraining, Runs
from ordtool.cli.options import OUT, Device, Force, Json, Quiet, Seed, Threads, option, renamed_options

if TYPE_CHECKING:
    from ordtool.independence.bottleneck_comparison import Comparison
    from ordtool.independence.labelled import Labelled
    from ordtool.independence.variables import TextEncoder, VariablesConfig

NETWORK = "The network"
MEASURE = "How it is measured"
READ = "What is read"


@renamed_options({"--embed": "--embed-model"})
def bottleneck(
    vectors: Annotated[
        str, typer.Argument(metavar="VECTORS", help="NPY or JSONL; texts too, with --embed-model.")
    ],
    labels: Annotated[
        str | None,
        typer.Argument(
            metavar="LABELS", help="JSONL, or integers in an NPY.  [default: the JSONL of the vectors]"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "The model folder to make.  [default: none, only the comparison]",
            OUT,
            "--output -o",
            metavar="MODEL",
        ),
    ] = None,
    layers: Annotated[str, option("Widths of the layers.", NETWORK, metavar="WIDTHS")] = "128,128,128",
    activation: Annotated[
        str, option("relu, tanh or gelu.", NETWORK, autocompletion=lambda: ["relu", "tanh", "gelu"])
    ] = "relu",
    sigma: Annotated[float, option("Of the gaussian kernels, over the root of the width.", TRAINING)] = 5.0,
    beta: Annotated[float, option("Weight of the labels against the inputs.", TRAINING)] = 500.0,
    epsilon: Annotated[float, option("Of nHSIC.", TRAINING)] = 1e-5,
    epochs: Epochs = 30,
    batch_size: Annotated[int, option("Rows a batch.", TRAINING)] = 256,
    learning_rate: Annotated[float, option("Of Adam.", TRAINING, "--learning-rate --lr")] = 1e-3,
    ridge: Annotated[float, option("Weight of the read-out's squared weights.", TRAINING)] = 1e-2,
    test_vectors: Annotated[str | None, option("Held-out data.", MEASURE, metavar="FILE")] = None,
    test_labels: Annotated[str | None, option("Its labels.", MEASURE, metavar="FILE")] = None,
    holdout: Annotated[
        float, option("Share of the rows held out where no test data is given.", MEASURE)
    ] = 0.1,
    methods: Annotated[
        str, option("What is trained and compared.", COMPARISON)
    ] = "hsic,backprop,linear,random",
    runs: Runs = 3,
    label_field: Annotated[str, option("A JSONL's labels.", READ, metavar="KEY")] = "label",
    embed_model: Annotated[
        str | None,
        option(
            "Embed texts with this model; `ordtool predict` will too. With vectors: what made them.",
            READ,
            metavar="MODEL",
        ),
    ] = None,
    field: Annotated[str, option("A JSONL's texts.", READ)] = "text",
    id_field: Annotated[str, option("A JSONL's ids.", READ)] = "id",
    json: Json = False,
    resume: ResumeTraining = False,
    force: Force = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train layers one by one with the HSIC bottleneck, and compare with back-propagation.

    Each layer maximises its dependence on the labels and minimises that on the inputs; no error is passed back. The
    table shows the accuracy on held-out rows of the bottleneck, back-propagation, a linear read-out and random layers,
    and each layer's nHSIC.

    Examples:
        ordtool train bottleneck examples/questions.jsonl --embed-model static --epochs 5 --runs 1 -o sorter
        echo 'Who was Galileo?' | ordtool predict -m sorter
    """
    from ordtool import console
    from ordtool.cli._text_encoder import text_encoder
    from ordtool.cli._training_options import say_trained
    from ordtool.independence.bottleneck_comparison import check_methods, compare_methods
    from ordtool.independence.bottleneck_training import BottleneckTrainingConfig, unfinished_trainings
    from ordtool.independence.variables import VariablesConfig
    from ordtool.io.atomic import atomic_directory
    from ordtool.io.jsonl import dumps
    from ordtool.models.loading import quiet_transformers
    from ordtool.progress import counted
    from ordtool.runtime import set_threads

    quiet_transformers()
    config = BottleneckTrainingConfig(
        layers=_widths(layers),
        activation=activation,
        sigma=sigma,
        beta=beta,
        epsilon=epsilon,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ridge=ridge,
        seed=seed,
        device=device,
    )
    names = check_methods(methods.split(","))
    # Matrices of one batch are too small for a second thread to help; it costs more where cores are shared.
    set_threads(threads or 1)
    progress = console.RichProgress(quiet)
    with unfinished_trainings(output, resume=resume, force=force) as unfinished:
        train, held_out = _read_data(
            (vectors, labels),
            (test_vectors, test_labels),
            VariablesConfig(label_field, field, id_field),
            text_encoder(embed_model, device, threads, progress),
            holdout,
            seed,
        )
        progress.note(
            f"{counted(len(train), 'row')} to train on, {len(held_out):,} held out, "
            f"{counted(len(train.names), 'class', 'classes')}"
        )
        comparisons = compare_methods(
            train,
            held_out,
            config,
            names,
            runs,
            embedding_model=embed_model,
            folder=unfinished,
            progress=progress,
        )
        records = [comparison.record() for comparison in comparisons]
        if output is not None:
            with atomic_directory(output, force=force or resume) as folder:
                comparisons[0].first.save_pretrained(folder)
                (folder / "comparison.jsonl").write_text("".join(dumps(record) + "\n" for record in records))
    if console.stdout_is_terminal() and not json:
        _show(comparisons)
    else:
        for record in records:
            console.write_line(dumps(record))
    if output is not None:
        first = comparisons[0]
        figures = f"the {first.method} network of seed {seed}, held-out accuracy {first.accuracies[0]:.2f}%"
        say_trained(output, figures, "ordtool predict -m MODEL FILE", progress)


def _read_data(
    vectors: tuple[str, str | None],
    held_out: tuple[str | None, str | None],
    config: VariablesConfig,
    encode: TextEncoder | None,
    share: float,
    seed: int,
) -> tuple[Labelled, Labelled]:
    """Return what is trained on and what is held out; each a pair of files, vectors and labels."""
    from ordtool.errors import UsageError
    from ordtool.independence.labelled import read_labelled, split, with_names_of

    test_vectors, test_labels = held_out
    if test_labels is not None and test_vectors is None:
        raise UsageError("--test-labels without --test-vectors", "give both, or a .jsonl with both in it")
    data = read_labelled(*vectors, config, encode)
    if test_vectors is None:
        return split(data, share, seed)
    return data, with_names_of(read_labelled(test_vectors, test_labels, config, encode), data, test_vectors)


def _widths(text: str) -> tuple[int, ...]:
    from ordtool.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--layers {text}: widths with commas are expected", "--layers 128,128,128"
        ) from None


def _show(comparisons: list[Comparison]) -> None:
    from ordtool.console import print_table

    rows = []
    for comparison in comparisons:
        record = comparison.record()
        spread = f"{record['deviation']:.2f}" if record["deviation"] is not None else "-"
        seeds = str(len(comparison.accuracies))
        rows.append(
            (comparison.method, f"{record['accuracy']:.2f}", spread, seeds, f"{record['seconds']:.1f}")
        )
    print_table(
        "on held-out rows",
        ["method", "accuracy %", "deviation", "seeds", "seconds"],
        rows,
        to_stderr=False,
    )
    layers = [
        (comparison.method, str(number), f"{x:.2f}", f"{y:.3f}")
        for comparison in comparisons
        for number, (x, y) in enumerate(comparison.dependence, start=1)
    ]
    if layers:
        columns = ["method", "layer", "nHSIC with inputs", "with labels"]
        print_table("dependence of each layer, held-out batches", columns, layers, to_stderr=False)
