"""Runs of `embed` that are interrupted, and gone on with."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ordtool.embedding.embed_config import EmbedConfig
from ordtool.embedding.embed_job import embed_files
from ordtool.embedding.encoder import EncoderConfig
from ordtool.errors import OrdtoolError
from ordtool.progress import Silent

LINES = 160


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Three shards of a text that takes no time."""
    monkeypatch.setattr("ordtool.embedding.work.SHARD_TEXTS", 64)


class Interrupting(Silent):
    """Presses Ctrl-C when so much of the input is done."""

    def __init__(self, most):
        self.most = most

    def advance(self, amount=1, **stats):
        self.most -= amount
        if self.most <= 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    words = "the a cat dog river old then ran saw sang".split()
    drawn = np.random.default_rng(0).choice(words, (LINES, 4))
    path.write_text("".join(" ".join(line) + "\n" for line in drawn))
    return path


def content(path):
    return {file.name: file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])}


def interrupted(config, text):
    # Half of the last shard is computed then.
    with pytest.raises(KeyboardInterrupt):
        embed_files(config, Interrupting(0.95 * text.stat().st_size))


class Noting(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl", "out"])
def test_resumed_is_uninterrupted(text, tmp_path, encoders, name):
    """Whitened vectors, and layers in a folder."""
    config = EmbedConfig(
        EncoderConfig(model="static"), (str(text),), output=tmp_path / "whole", whiten=True, dims=3
    )
    if name == "out":
        encoder = EncoderConfig(model=str(encoders("plain-bert")), layers="all", dtype="float32")
        config = EmbedConfig(encoder, (str(text),), output=tmp_path / "whole")
    config = replace(config, output=tmp_path / f"whole-{name}")
    embed_files(config)
    whole, config = content(config.output), replace(config, output=tmp_path / name)
    interrupted(config, text)
    assert not config.output.exists()
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        embed_files(config)
    with pytest.raises(OrdtoolError, match="other settings"):
        embed_files(replace(config, resume=True, field="body"))
    progress = Noting()
    assert embed_files(replace(config, resume=True), progress).texts == LINES
    assert "going on after 128 records" in progress.notes
    assert list(content(config.output).values()) == list(whole.values())
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_raw_vectors_are_whitened_otherwise(text, tmp_path):
    """What comes after the vectors may change between the interruption and the resumed run."""
    config = EmbedConfig(
        EncoderConfig(model="static"), (str(text),), output=tmp_path / "a.npy", whiten=True, dims=3
    )
    interrupted(config, text)
    embed_files(replace(config, resume=True, dims=2, precision="float16"))
    found = np.load(tmp_path / "a.npy")
    assert found.shape == (LINES, 2) and found.dtype == np.float16


def test_layers_that_were_cut_are_begun_anew_by_force_alone(text, tmp_path, encoders):
    encoder = EncoderConfig(model=str(encoders("plain-bert")), layers="all", dtype="float32")
    config = EmbedConfig(encoder, (str(text),), output=tmp_path / "out")
    interrupted(config, text)
    file = tmp_path / "out.partial" / "files" / "layer-01.npy"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OrdtoolError, match="vectors are not in it"):
        embed_files(replace(config, resume=True))


def test_vectors_that_are_none_are_said_with_their_line(text, tmp_path, encoders):
    folder = shutil.copytree(encoders("plain-bert"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(OrdtoolError, match="a.txt:1: the model's vector holds NaN"):
        embed_files(EmbedConfig(EncoderConfig(str(folder)), (str(text),), output=tmp_path / "out.jsonl"))
