"""Configuration files: what stands on the line goes first, what means nothing is an error, and what is saved runs again."""

import json
import tomllib

import pytest


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\na dog ran\n")
    return tmp_path


def first(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


@pytest.mark.parametrize(
    "text",
    [
        'model = "static"\ndims = 3\njson = true\nquiet = true\n',
        'quiet = true\n[embed]\nmodel = "static"\ndims = 3\njson = true\n[train.lm]\nsteps = 3\n',
        'model = "wrong"\nquiet = true\n[embed]\nmodel = "static"\ndims = 3\njson = true\n',
    ],
    ids=["flat", "section", "section over flat"],
)
def test_a_file_stands_for_options(run_in_process, notes, text):
    (notes / "run.toml").write_text(text)
    assert len(first(run_in_process("embed", "a.txt", "--config", "run.toml"))["vector"]) == 3
    line = run_in_process("embed", "a.txt", "--dims", 2, "--config", "run.toml")
    assert len(first(line)["vector"]) == 2


def test_the_environment_goes_before_a_file(run_in_process, notes):
    (notes / "run.toml").write_text("threads = 1\n")
    done = run_in_process(
        "embed", "a.txt", "-m", "static", "--json", "--config", "run.toml", env={"ORDTOOL_THREADS": "0"}
    )
    assert done.returncode == 2 and "--threads" in done.stderr and "run.toml" not in done.stderr


def test_lists_are_arguments_or_joined_by_commas(run_in_process, notes):
    (notes / "b.txt").write_text("rain fell\n")
    text = 'inputs = ["a.txt", "b.txt"]\nmodel = "tinylm"\nformat = "jsonl"\npooling = ["mean", "last"]\n'
    (notes / "run.toml").write_text(text)
    done = run_in_process("embed", "--config", "run.toml")
    assert len(done.stdout.splitlines()) == 3
    assert len(first(done)["vector"]) == 2 * 240


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dimms = 3", "ordtool embed has no option 'dimms'"),
        ("dimms = 3", "did you mean 'dims'?"),
        ("force = true\nsave_config = 'x'", "no option 'save_config'"),
        ("[embedd]\ndims = 3", "unknown section [embedd]"),
        ("[train.lmm]", None),
        ("embed = 3", "'embed' must be a section"),
        ("dims = 'three'", "run.toml: Invalid value for '--dims'"),
        ("dims = ", "run.toml: no TOML"),
        ("dims = " + "[" * 100_000, "run.toml: no TOML"),
        ("[embed.dims]", "no option 'dims'"),
    ],
)
def test_what_means_nothing_is_one_clear_error(run_in_process, notes, text, said):
    (notes / "run.toml").write_text(text)
    done = run_in_process("embed", "a.txt", "-m", "static", "--json", "--config", "run.toml")
    if said is None:  # the section of another command is that command's
        assert done.returncode == 0
        return
    assert done.returncode == 2
    assert said in done.stderr and len(done.stderr.splitlines()) <= 2


def test_a_missing_file_is_named(fails_in_process, notes):
    assert "nope.toml: can't be read" in fails_in_process("embed", "a.txt", "--config", "nope.toml", status=2)


def test_what_was_saved_runs_again(run_in_process, notes):
    line = (
        "embed",
        "a.txt",
        "-m",
        "static",
        "--dims",
        3,
        "--no-normalize",
        "--format",
        "jsonl",
        "--prompt",
        'a "b"\\: ',
    )
    done = run_in_process(*line, "--save-config", "run.toml")
    saved = tomllib.loads((notes / "run.toml").read_text())["embed"]
    assert saved["inputs"] == ["a.txt"] and saved["normalize"] is False and saved["prompt"] == 'a "b"\\: '
    assert {"force", "resume", "config", "save-config", "help"}.isdisjoint(saved)
    again = run_in_process("embed", "--config", "run.toml")
    assert again.stdout == done.stdout and first(again)
    refused = run_in_process(*line, "--save-config", "run.toml")
    assert refused.returncode == 1 and "--force" in refused.stderr
    assert run_in_process(*line, "--save-config", "run.toml", "--force").returncode == 0


def test_a_subcommand_has_a_section_too(run_in_process, notes):
    done = run_in_process("models", "show", "static", "--json", "--save-config", "run.toml")
    assert tomllib.loads((notes / "run.toml").read_text())["models"]["show"]["name"] == "static"
    assert run_in_process("models", "show", "--config", "run.toml").stdout == done.stdout
    (notes / "m.toml").write_text("[whiten]\nbeta = 2\n[whiten-merge]\ngamma = 'x'\n")
    done = run_in_process("whiten", "merge", "a", "-o", "b", "--config", "m.toml")
    assert done.returncode == 2 and "m.toml: Invalid value for '--gamma'" in done.stderr


def test_every_command_takes_a_file(run_in_process, every_command, notes):
    (notes / "run.toml").write_text("no-such-option = 1\n")
    for name in every_command:
        done = run_in_process(*name.split(), "--config", "run.toml")
        assert (done.returncode, "has no option 'no-such-option'" in done.stderr) == (2, True), name


def test_other_names_of_options(run_in_process, notes):
    found = first(run_in_process("embed", "a.txt", "-m", "static", "--json", "--dim", 3))
    assert len(found["vector"]) == 3
    done = run_in_process("generate", "-m", "tinylm", "-p", "Once", "--n", 2, "--temp=0.9", "--json")
    assert len(first(done)["outputs"]) == 2
    (notes / "a.tsv").write_text("the cat\tbeast\nthe sea\twet\n" * 9)
    done = run_in_process("train", "ladder", "a.tsv", "-m", "tinylm", "--eval=missing.tsv", "-o", "x")
    assert "missing.tsv" in done.stderr


def test_help_has_plain_types_and_no_brackets(run_in_process, every_command):
    for name in every_command:
        printed = run_in_process(*name.split(), "--help").stdout.decode()
        assert not [
            word
            for word in ("<str>", "<int", "<bool>", "<list", "<float", " range]", "[x>")
            if word in printed
        ], name
        usage = next(line for line in printed.splitlines() if "Usage:" in line)
        assert not set("{}") & set(usage)
        assert "--config" in printed and " Examples\n" in printed
