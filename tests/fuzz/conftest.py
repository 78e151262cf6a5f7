"""The size of a fuzzing run, and the models it works with."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest


def pytest_addoption(parser):
    group = parser.getgroup("fuzz")
    group.addoption("--examples", type=int, help="Examples of each family, instead of a few.")
    group.addoption("--first", type=int, default=0, help="The number of the first one.")
    group.addoption("--fuzz-seed", default="0", help="Other examples.")


@pytest.fixture(scope="session")
def models(parsers, encoders, writers, tmp_path_factory, request):
    """Folders of small models by their names, a fitted whitening, and interrupted runs: of trainings too in a long run."""
    from ordtool.models.entries import catalogue, model_folder

    folder = tmp_path_factory.mktemp("models")
    long = request.config.getoption("--examples", default=None) is not None
    packaged = {"static": "static", "tinylm": "tinylm", "english": "english", "spans": "english-gold"}
    found = {name: writers(name) for name in ("llama", "own", "chat", "gpt2", "t5", "unilm")}
    found |= {"parser": parsers(), "bert": encoders("plain-bert")}
    found |= {name: model_folder(catalogue()[entry]) for name, entry in packaged.items()}
    found |= _classifiers(folder) | {"ladder": _ladder(folder, found["bert"])}
    found |= {"transform": _transform(folder), "interrupted": _interrupted(folder, found, long)}
    return found


def _classifiers(folder):
    from ordtool.independence.bottleneck_training import BottleneckTrainingConfig, train_bottleneck
    from ordtool.independence.labelled import Labelled

    found = {}
    for name, width in (("vectors", 4), ("texts", 240)):
        vectors = np.random.default_rng(0).standard_normal((40, width)).astype(np.float32)
        data = Labelled(vectors, (vectors[:, 0] > 0).astype(int), ("minus", "plus"))
        found[name] = folder / name
        config = BottleneckTrainingConfig(method="linear")
        train_bottleneck(data, config=config).model.save_pretrained(found[name])
    return found


def _transform(folder):
    np.save(folder / "v.npy", np.random.default_rng(0).standard_normal((40, 4)))
    assert _command(folder, "whiten", "v.npy", "--save", "t", "-o", "w.npy") == 0
    return folder / "t"


def _command(folder, *args):
    from ordtool.cli.app import main

    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.raises(SystemExit) as end:
            main([*map(str, args), "-q"])
    finally:
        os.chdir(before)
    return end.value.code


def _ladder(folder, bert):
    (folder / "l.tsv").write_text("the cat sat\ta\na dog ran\tb\n" * 8)
    short = ("--max-steps", "1", "-r", "2", "--no-cache")
    assert _command(folder, "train", "ladder", "l.tsv", "-m", bert, "-o", "ladder", *short) == 0
    return folder / "ladder"


def _interrupted(folder, models, long):
    """Runs that stopped at a bad line, which was mended since; and trainings of which the last checkpoint stayed."""
    line = ["a.txt", "--batch-size", "1"]
    lines = {
        "embed": ["embed", *line, "-m", models["bert"], "-o", "o.npy"],
        "vectors": ["embed", *line, "-m", models["bert"], "-o", "o.jsonl"],
        "generate": ["generate", *line, "-m", models["llama"], "--max-new-tokens", "1", "-o", "o.jsonl"],
        "parse": ["parse", *line, "-m", models["parser"], "-o", "o.jsonl"],
        "predict": ["predict", *line, "-m", models["texts"], "--embed-model", "static", "-o", "o.jsonl"],
    }
    folder /= "interrupted"
    small = ["--hidden", "8", "--layers", "2"]
    trainings = {
        "parser": "train parser a.txt -o m --kind onlstm --epochs 1 --embedding 8 --chunk 4".split() + small,
        "lm": "train lm a.txt -o m --steps 2 --heads 1 --context 8 --vocab-size 300".split() + small,
        "ladder": "train ladder l.tsv -o m --epochs 2 -r 2 --no-cache -m".split() + [models["bert"]],
    }
    for name, command in (lines | trainings if long else lines).items():
        work = folder / name / "work"
        work.mkdir(parents=True)
        (work / "l.tsv").write_text("the cat sat\ta\na dog ran\tb\n" * 8)
        (work / "a.txt").write_bytes(
            b"the cat sat on\na dog ran\n\xff\n" if name in lines else b"the cat sat on\na dog\n" * 20
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            status = _command(work, *command)
        assert status == (name in lines), (name, status)
        if name in lines:
            _mend(work)
        else:
            (work / "m").rename(folder.parent / f"{name}-trained")
            assert list(work.glob("m.*/*")), f"{name} left {os.listdir(work)}"
        (folder / name / "command.json").write_text(json.dumps(list(map(str, command))))
    return folder


def _mend(work):
    from ordtool.io.atomic import file_fingerprint

    (record,) = work.glob("*.partial.json")
    (work / "a.txt").write_bytes(b"the cat sat on\na dog ran\nthe red bird\n")
    found = json.loads(record.read_text())
    record.write_text(json.dumps({**found, "input": file_fingerprint([work / "a.txt"])}))
