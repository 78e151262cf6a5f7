"""The folder of an unfinished training."""

import json
import os

import pytest

from ordtool.errors import OrdtoolError
from ordtool.io.runs import partial_folder, run_folder, run_metadata


def has_checkpoint(folder):
    return (folder / "checkpoint").exists()


class Notes(list):
    note = list.append


@pytest.fixture
def train(tmp_path):
    """`train("checkpoint", stop=True)`: a training that writes these files, and may end with an error."""
    (tmp_path / "in").write_text("text")

    def call(*files, stop=False, rate=1, progress=None, **options):
        with run_folder(tmp_path / "m.partial", has_checkpoint, **options) as run:
            resumed = run.start(
                run_metadata([tmp_path / "in"], {"rate": rate}), *[progress] * (progress is not None)
            )
            for file in files:
                (run.path / file).touch()
            if stop:
                raise RuntimeError("stopped")
        return resumed

    return call


def interrupted(train, *files, **options):
    with pytest.raises(RuntimeError, match="stopped"):
        train(*files, stop=True, **options)


def test_a_checkpoint_is_gone_on_from(tmp_path, train):
    interrupted(train, "checkpoint")
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        train()
    assert train(resume=True)
    assert os.listdir(tmp_path) == ["in"]
    interrupted(train, "checkpoint")
    assert not train(force=True)


def test_a_run_without_a_checkpoint_is_no_obstacle_and_is_begun_again(tmp_path, train):
    interrupted(train, "vocabulary")
    assert os.listdir(tmp_path) == ["in"]
    for options in ({}, {"resume": True}):
        notes = Notes()
        (tmp_path / "m.partial").mkdir()  # as a kill leaves it
        (tmp_path / "m.partial" / "vocabulary").touch()
        assert not train(progress=notes, **options)
        assert ["begins anew" in note for note in notes] == [True] * bool(options)


def test_it_is_held_to_settings_and_input(tmp_path, train):
    interrupted(train, "checkpoint")
    with pytest.raises(OrdtoolError, match="other settings \\(rate\\)") as caught:
        train(resume=True, rate=2)
    assert "rate was 1, is 2" in caught.value.hint
    (tmp_path / "in").write_text("other")
    with pytest.raises(OrdtoolError, match="the input has changed"):
        train(resume=True)
    assert has_checkpoint(tmp_path / "m.partial")


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"input": 1, "settings": {}}', '{"input": "a"}', '{"settings": {}}']
)
def test_damaged_metadata_is_one_line(tmp_path, train, damage):
    interrupted(train, "checkpoint")
    (tmp_path / "m.partial" / "run.json").write_text(damage)
    with pytest.raises(OrdtoolError, match="run.json: missing or damaged"):
        train(resume=True)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}], ids=str)
def test_a_second_run_is_refused(tmp_path, train, options):
    with run_folder(tmp_path / "m.partial", has_checkpoint) as run:
        run.start(run_metadata([], {}))
        with pytest.raises(OrdtoolError, match=f"another run is writing this: process {os.getpid()} on "):
            train(**options)
        assert json.loads((run.path / "run.json").read_text()) == {"input": None, "settings": {}}
    assert os.listdir(tmp_path) == ["in"]


def test_the_folder_lies_beside_what_a_link_points_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there" / "model")
    assert partial_folder(tmp_path / "link") == tmp_path / "there" / "model.partial"
    assert partial_folder(f"{tmp_path}/model/") == tmp_path / "model.partial"


def test_a_file_that_another_command_left_is_replaced_by_force_alone(tmp_path, train):
    (tmp_path / "m.partial").write_text("lines")
    for options in ({}, {"resume": True}):
        with pytest.raises(OrdtoolError, match="another command left this"):
            train(**options)
    assert not train(force=True)
    assert os.listdir(tmp_path) == ["in"]
