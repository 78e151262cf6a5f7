"""`ordtool embed` as a process: pipes, formats, an interruption, bad input."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ordtool.embedding.work import SHARD_TEXTS

TEXT = (
    "The cat sat on the mat.\nA dog barks at the mailman.\n\nThe cat sat on the mat.\nPrices rose in March.\n"
)
LINES = TEXT.splitlines()


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    return tmp_path


def test_npy_to_a_file_and_to_a_pipe(run, texts):
    done = run("embed", "-m", "static", "a.txt", "-o", "a.npy")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert "5 texts, 1 of them repeated, 240 dimensions" in done.stderr
    assert "1 different text without a token" in done.stderr
    rows = np.load(texts / "a.npy")
    assert (rows.shape, rows.dtype) == ((5, 240), np.float32)
    np.testing.assert_array_equal(rows[0], rows[3])
    np.testing.assert_array_equal(rows[2], 0)
    np.testing.assert_allclose(np.linalg.norm(rows[[0, 1, 4]], axis=1), 1, rtol=1e-5)
    piped = run("embed", "-m", "static", "-q", stdin=TEXT.encode())
    np.testing.assert_array_equal(np.load(io.BytesIO(piped.stdout)), rows)
    from_file = run("embed", "-m", "static", "-q", "a.txt")
    assert from_file.stdout == (texts / "a.npy").read_bytes()
    assert sorted(path.name for path in texts.iterdir()) == ["a.npy", "a.txt"]


def test_json_lines_keep_every_key_in_order(run_in_process, tmp_path):
    records = [{"id": 7, "text": "a cat", "tags": ["x"], "zed": None}, {"id": 8, "text": "a dog"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = run_in_process("embed", "-m", "static", "-q", "a.jsonl", "--json", "--dims", 8)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(line) for line in lines] == [
        ["id", "text", "tags", "zed", "vector"],
        ["id", "text", "vector"],
    ]
    rows = np.load(io.BytesIO(run_in_process("embed", "-m", "static", "-q", "a.jsonl", "--dims", 8).stdout))
    np.testing.assert_array_equal(np.array([line["vector"] for line in lines], np.float32), rows)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    by_name = run_in_process("embed", "-m", "static", "-q", "a.jsonl", "-o", "b.jsonl", "--dims", 8)
    assert by_name.returncode == 0
    assert (tmp_path / "b.jsonl").read_bytes() == done.stdout


def test_a_pipe_that_ends_early_is_no_error(texts):
    code = "ordtool embed -m static -q big.txt --json | head -1 | wc -l; echo ${PIPESTATUS[0]}"
    (texts / "big.txt").write_text(TEXT * 4000)
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code], cwd=texts, env=environment, capture_output=True, check=False)
    assert done.stdout.decode().split() == ["1", "141"], done.stderr


@pytest.mark.parametrize(("precision", "dtype"), [("float16", np.float16), ("int8", np.int8)])
def test_precisions_keep_directions(run_in_process, texts, precision, dtype):
    exact = np.load(io.BytesIO(run_in_process("embed", "-m", "static", "-q", "a.txt").stdout))
    rough = np.load(
        io.BytesIO(run_in_process("embed", "-m", "static", "-q", "a.txt", "--precision", precision).stdout)
    )
    assert rough.dtype == dtype
    kept = [0, 1, 4]
    rough = rough[kept].astype(np.float32)
    cosines = (exact[kept] * rough).sum(1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.9995
    lines = run_in_process(
        "embed", "-m", "static", "-q", "a.txt", "--json", "--precision", precision
    ).stdout.splitlines()
    np.testing.assert_array_equal(np.array(json.loads(lines[0])["vector"], dtype), rough[0].astype(dtype))


def test_parquet(run_in_process, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.jsonl").write_text('{"id": 7, "text": "a cat"}\n{"id": 8, "text": "a dog"}\n')
    assert run_in_process("embed", "-m", "static", "a.jsonl", "-o", "a.parquet").returncode == 0
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["id", "text", "vector"]
    rows = np.load(io.BytesIO(run_in_process("embed", "-m", "static", "-q", "a.jsonl").stdout))
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), rows)


def test_parquet_refuses_what_it_cannot_hold(fails_in_process, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.jsonl").write_text('{"id": 7, "text": "a cat"}\n{"id": "x", "text": "a dog"}\n')
    message = fails_in_process("embed", "-m", "static", "a.jsonl", "-o", "a.parquet")
    assert "the key 'id' has values of several types" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_all_layers_make_a_folder(run_in_process, texts, encoders):
    folder = encoders("bert")
    done = run_in_process(
        "embed", "-m", folder, "a.txt", "--layers", "all", "-o", "layers", "--dtype", "float32"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (texts / "layers").iterdir()) == [f"layer-0{n}.npy" for n in range(4)]
    last = np.load(
        io.BytesIO(run_in_process("embed", "-m", folder, "-q", "a.txt", "--dtype", "float32").stdout)
    )
    np.testing.assert_array_equal(np.load(texts / "layers/layer-03.npy"), last)


def test_shards_put_together_are_the_whole(run_in_process, texts):
    whole = np.load(io.BytesIO(run_in_process("embed", "-m", "static", "-q", "a.txt").stdout))
    parts = [
        run_in_process("embed", "-m", "static", "-q", "a.txt", "--shard", f"{part}/3").stdout
        for part in (1, 2, 3)
    ]
    np.testing.assert_array_equal(np.concatenate([np.load(io.BytesIO(part)) for part in parts]), whole)


def test_whitening_on_the_way_is_whitening_afterwards(run_in_process, texts):
    lines = [
        " ".join(np.random.default_rng(i).permutation(LINES[0].split() + LINES[1].split())[:5])
        for i in range(60)
    ]
    (texts / "b.txt").write_text("\n".join(lines) + "\n")
    at_once = run_in_process("embed", "-m", "static", "b.txt", "--whiten", "--dims", 4, "-o", "w.npy")
    assert at_once.returncode == 0, at_once.stderr
    raw = run_in_process("embed", "-m", "static", "-q", "b.txt").stdout
    after = run_in_process("whiten", "-q", "--dims", 4, "--save", "t.safetensors", "-o", "w2.npy", stdin=raw)
    assert after.returncode == 0, after.stderr
    np.testing.assert_allclose(np.load(texts / "w.npy"), np.load(texts / "w2.npy"), rtol=1e-4, atol=1e-5)
    applied = run_in_process("embed", "-m", "static", "-q", "b.txt", "--transform", "t.safetensors").stdout
    np.testing.assert_allclose(np.load(io.BytesIO(applied)), np.load(texts / "w2.npy"), rtol=1e-4, atol=1e-5)
    as_json = run_in_process(
        "embed", "-m", "static", "-q", "b.txt", "--whiten", "--dims", 4, "--json"
    ).stdout.splitlines()
    assert json.loads(as_json[-1])["text"] == lines[-1]
    np.testing.assert_array_equal(np.float32(json.loads(as_json[-1])["vector"]), np.load(texts / "w.npy")[-1])


@pytest.mark.parametrize(("name", "kind"), [("out.npy", "bert"), ("out.jsonl", "static")])
def test_killed_and_resumed_is_the_same_bytes(
    run_in_process, launcher, kills_itself, tmp_path, encoders, name, kind
):
    generator = np.random.default_rng(0)
    words = np.array(["the", "a", "cat", "dog", "river", "old", "then", "ran"])
    count = SHARD_TEXTS + 100  # it is killed between the two shards
    lines = [" ".join(generator.choice(words, generator.integers(1, 12))) for _ in range(count)]
    (tmp_path / "many.txt").write_text("\n".join(lines) + "\n")
    model = kind if kind == "static" else encoders(kind)
    command = ["embed", "-m", model, "--dims", 16, "many.txt", "-o"]
    assert run_in_process(*command, f"whole-{name}").returncode == 0
    killed = launcher.run(["-c", kills_itself, *command, name], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((tmp_path / f"{name}.partial.json").read_text())["done"] == SHARD_TEXTS
    with open(tmp_path / f"{name}.partial", "ab") as partial:
        partial.write(b"a torn tail")
    again = run_in_process(*command, name)
    assert again.returncode == 1
    assert "interrupted run" in again.stderr
    other = run_in_process(*command, name, "--resume", "--precision", "float16")
    assert "other settings (precision)" in other.stderr
    done = run_in_process(*command, name, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stderr
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_truncated_texts_are_counted(run_in_process, tmp_path, encoders):
    (tmp_path / "long.txt").write_text("river " * 100 + "\nthe cat\n")
    done = run_in_process("embed", "-m", encoders("bert"), "long.txt", "-o", "a.npy")
    assert "1 text of over 40 tokens cut" in done.stderr
    assert "split long texts into lines" in done.stderr
    done = run_in_process("embed", "-m", encoders("bert"), "long.txt", "-o", "b.npy", "--max-length", 20)
    assert "--max-length 40 reads more" in done.stderr


def test_skipped_records_are_listed(run_in_process, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "a cat"}\n{"text": \n{"text": "a \xff"}\n{"text": "a dog"}\n'
    )
    done = run_in_process("embed", "-m", "static", "a.jsonl", "-o", "a.npy", "--on-error", "skip")
    assert done.returncode == 0
    assert len(np.load(tmp_path / "a.npy")) == 2
    assert "2 bad records skipped" in done.stderr
    assert "a.jsonl:2: malformed JSON" in done.stderr
    assert "a.jsonl:3: invalid UTF-8" in done.stderr


def test_empty_input(run_in_process, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert run_in_process("embed", "-m", "static", "empty.txt", "-o", "a.npy").returncode == 0
    assert np.load(tmp_path / "a.npy").shape == (0, 240)


BAD = [
    (["--pooling", "men"], 2, "unknown pooling 'men'", "did you mean 'mean'"),
    (["--precision", "float8"], 2, "unknown precision 'float8'", "float16"),
    (["--format", "npz"], 2, "unknown format 'npz'", "choices: arrow, csv, jsonl, npy, parquet"),
    (["-o", "x.pt"], 2, "x.pt: a .pt file isn't written here", ".npy, .jsonl"),
    (["-o", "x.npz"], 2, "x.npz: a .npz file isn't written here", ".parquet"),
    (["--prompt", "query"], 2, "static has no prompts, and so none named 'query'", "'query: '"),
    (["--layers", "1"], 2, "--layers has no meaning for static vectors", "minilm"),
    (["--dims", "999"], 2, "more than the 240 numbers", "240 or less"),
    (["--shard", "5/4"], 2, "--shard 5/4", "--shard 1/4"),
    (["--layers", "all"], 2, "--layers all writes a folder", "-o"),
    (["--whiten", "--transform", "t"], 2, "choose", ""),
    (["--whiten", "--shard", "1/2"], 2, "different transform for each shard", "whiten merge"),
    (["--transform", "none.safetensors"], 1, "none.safetensors: no such file", "whiten"),
    (["-o", "nowhere/x.npy"], 1, "the folder", "mkdir"),
    (["-m", "statik"], 2, "unknown model 'statik'", "did you mean 'static'"),
    (["-m", "english"], 2, "is a parser, and an encoder is needed", "minilm"),
]


@pytest.mark.parametrize(("options", "status", "message", "hint"), BAD, ids=lambda value: str(value)[:30])
def test_bad_options(fails_in_process, texts, options, status, message, hint):
    model = [] if "-m" in options else ["-m", "static"]
    said = fails_in_process("embed", *model, "a.txt", *options, status=status)
    assert message in said
    assert hint in said
    assert [path.name for path in texts.iterdir()] == ["a.txt"]


def test_bad_inputs(fails_in_process, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    assert "latin.txt:2: invalid UTF-8" in fails_in_process("embed", "-m", "static", "latin.txt", "--json")
    assert "missing.txt: no such file" in fails_in_process("embed", "-m", "static", "missing.txt")
    (tmp_path / "a.jsonl").write_text('{"body": "a cat"}\n')
    assert "no field 'text' (keys: body)" in fails_in_process("embed", "-m", "static", "a.jsonl", "--json")
    (tmp_path / "a.npy").write_text("")
    assert "exists already" in fails_in_process(
        "embed", "-m", "static", "a.jsonl", "-o", "a.npy", "--field", "body"
    )


def test_a_transform_of_another_width(run_in_process, fails_in_process, texts):
    raw = io.BytesIO()
    np.save(raw, np.random.default_rng(0).normal(size=(50, 6)))
    assert (
        run_in_process("whiten", "--save", "t.safetensors", "-o", "w.npy", stdin=raw.getvalue()).returncode
        == 0
    )
    message = fails_in_process(
        "embed", "-m", "static", "a.txt", "--transform", "t.safetensors", "-o", "x.npy"
    )
    assert "takes vectors of 6 numbers, and static gives 240" in message
    assert not (texts / "x.npy").exists()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(fails_in_process, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (tmp_path / "many.txt").write_text("".join(f"cat number {n}\n" for n in range(3000)))
        message = fails_in_process("embed", "-m", "static", "many.txt", "-o", "disk/x.npy")
        assert "no space left" in message
        assert not (disk / "x.npy").exists()
    finally:
        subprocess.run(["umount", disk], check=False)


def test_static_needs_no_torch(texts):
    code = (
        "import sys\nfrom ordtool.cli.app import main\n"
        "try:\n    main(['embed', '-m', 'static', '-q', 'a.txt', '-o', 'a.npy'])\nexcept SystemExit as end:\n"
        "    assert not end.code\nassert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=texts, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
