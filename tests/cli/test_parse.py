"""`ordtool parse` as a person and a pipe meet it."""

import csv
import gzip
import json
import random
from pathlib import Path

import pytest

from ordtool.parsing.trees.predictions import read_predictions

FIELDS = ["text", "tokens", "offsets", "distances", "spans", "tree"]
TEXT = "The old cat sat on the mat.\n\nShe said: “It ran (and not 3 dogs)”.\n"


@pytest.fixture
def sat(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def parse(run_in_process, parsers):
    """Runs parse with a tiny model, in this process."""

    def call(*args, **kwargs):
        return run_in_process("parse", "-m", parsers(), *args, **kwargs)

    return call


def objects(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]


def test_a_pipe_gets_json_a_sentence(run, parsers, sat):
    done = run("parse", "-m", parsers(), "a.txt")
    results = objects(done)
    assert done.stderr == ""
    assert [list(result) for result in results] == [FIELDS] * 3
    assert [result["text"] for result in results] == TEXT.split("\n")[:-1]
    for result in results:
        assert [result["text"][start:end] for start, end in result["offsets"]] == result["tokens"]
        assert len(result["distances"]) == len(result["tokens"])
    assert results[0]["tokens"] == ["The", "old", "cat", "sat", "on", "the", "mat", "."]
    assert results[0]["spans"][0] == [0, 8] and len(results[0]["spans"]) == 6
    assert results[1] == {"text": "", "tokens": [], "offsets": [], "distances": [], "spans": [], "tree": "()"}
    assert "-LRB- and" in results[2]["tree"] and "(" in results[2]["tokens"]


def test_stdin_file_dash_gz_and_json_agree(parse, sat):
    (sat / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (sat / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT.split("\n")[:-1]))
    expected = parse("a.txt").stdout
    assert expected == parse("a.txt.gz").stdout == parse("a.jsonl").stdout
    assert expected == parse(stdin=TEXT.encode()).stdout == parse("-", "--json", stdin=TEXT.encode()).stdout
    assert expected == parse(stdin=gzip.compress(TEXT.encode())).stdout


def test_keys_pass_through(parse, sat):
    (sat / "a.jsonl").write_text(
        '{"id": 7, "body": "it ran", "more": [1, null]}\n\n{"body": "", "id": "x"}\n'
    )
    results = objects(parse("a.jsonl", "--field", "body"))
    assert [list(result) for result in results] == [["id", "body", "more", *FIELDS], ["body", "id", *FIELDS]]
    assert results[0]["id"] == 7 and results[0]["text"] == "it ran" and results[1]["tokens"] == []


def test_tokenized_takes_the_input_as_it_stands(parse):
    text = "don't ( stop  , now ) ."
    [result] = objects(parse("--tokenized", stdin=text.encode()))
    assert result["tokens"] == text.split() and result["text"] == text


def test_running_text_is_split(parse, sat):
    wrapped = (
        "The cat sat on the mat of old Dr. Smith, and Mr.\nBrown ran in the old house of the dog. She said\nnot.\n"
        "\nIt ran!  He sat?\n"
    )
    results = objects(parse("--split", stdin=wrapped.encode()))
    assert [result["text"] for result in results] == [
        "The cat sat on the mat of old Dr. Smith, and Mr. Brown ran in the old house of the dog.",
        "She said not.",
        "It ran!",
        "He sat?",
    ]
    (sat / "a.jsonl").write_text('{"text": "It ran. He sat.", "id": 1}\n')
    assert [(r["text"], r["id"]) for r in objects(parse("--split", "a.jsonl"))] == [
        ("It ran.", 1),
        ("He sat.", 1),
    ]


def test_bracketed_trees_keep_their_tokens(parse, sat):
    tree = (
        "(ROOT (S (NP (DT The) (NN cat)) (VP (VBD sat) (-LRB- -LRB-) (NP (-NONE- *)) (-RRB- -RRB-)) (. .)))\n"
    )
    (sat / "bank").mkdir()
    (sat / "bank" / "one.mrg").write_text(tree)
    (sat / "bank" / "two.tree").write_text("( (NP (NN mat)) )\n")
    results = objects(parse("bank"))
    assert [result["tokens"] for result in results] == [["The", "cat", "sat", "(", ")", "."], ["mat"]]
    assert results[0]["text"] == "The cat sat ( ) ."
    assert objects(parse(stdin=tree.encode())) == results[:1]
    assert objects(parse("--input", "text", stdin=b"(S (NN a))"))[0]["tokens"][0] == "("
    penn = parse("bank", "--format", "penn").stdout.decode().split("\n")
    assert "(DT The)" in penn[0] and "(-LRB- -LRB-)" in penn[0] and penn[1] == "(X (NN mat))"


def test_formats(parse, sat):
    results = objects(parse("a.txt"))
    assert parse("a.txt", "-f", "brackets").stdout.decode().split("\n")[:-1] == [
        result["tree"] for result in results
    ]
    drawn = parse("a.txt", "-f", "tree").stdout.decode()
    assert "The old cat sat on the mat ." in drawn and "┌" in drawn and "\x1b" not in drawn
    svg = parse("a.txt", "-f", "svg").stdout.decode()
    assert svg.startswith("<svg ") and svg.count("<text") == 8 + 1 + 14
    assert parse("a.txt", "-o", "out.svg").stdout == b"" and (sat / "out.svg").read_text() == svg
    assert "\x1b[" in parse("a.txt", "-f", "tree", env={"FORCE_COLOR": "1", "NO_COLOR": ""}).stdout.decode()


def test_every_format_that_is_written_is_read_back(parse, tmp_path):
    """Tokens and spans of random sentences, brackets, slashes, digits and Chinese among them."""
    generator = random.Random(7)
    words = [
        "The",
        "old",
        "cat",
        "sat",
        "GO",
        "a/b",
        "1/2",
        "3.5",
        "(",
        ")",
        "f(x)",
        "[1]",
        "{",
        ".",
        ",",
        "“",
        "…",
        "\\/",
        "猫",
        "坐在",
    ]
    lines = [" ".join(generator.choices(words, k=generator.randrange(12))) for _ in range(300)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    formats = ["a.jsonl", "a.brackets", "a.mrg"]
    wanted = [(result["tokens"], result["spans"]) for result in objects(parse("--tokenized", "a.txt"))]
    assert [tokens for tokens, _ in wanted] == [line.split() for line in lines]
    for name in formats:
        parse("--tokenized", "a.txt", "-o", name)
        found = [readings[0] for readings in read_predictions(tmp_path / name)]
        for (tokens, spans), read in zip(wanted, found, strict=True):
            assert list(read.tokens) == tokens
            assert [[a, b] for a, b in read.spans if b - a > 1] == spans
    parse("--tokenized", "a.txt", "-o", "a.csv")
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(json.loads(row["tokens"]), json.loads(row["spans"])) for row in rows] == wanted
    for name in ("a.brackets", "a.mrg"):
        again = objects(parse(name))
        assert [result["tokens"] for result in again] == [tokens for tokens, _ in wanted]


def test_several_models_layers_and_builders(parse, parsers, sat):
    assert objects(parse("-m", parsers(seed=1), "a.txt"))
    one, other = objects(parse("--layer", "1:1,3:2", "-b", "unbiased", "a.txt")), objects(parse("a.txt"))
    assert [result["tokens"] for result in one] == [result["tokens"] for result in other]
    assert [result["spans"] for result in one] != [result["spans"] for result in other]


@pytest.fixture
def on_a_terminal(launcher, tmp_path):
    """Runs ordtool with a terminal for stdin and stdout; gives what it printed there and its status."""

    def call(*arguments, **environment):
        return launcher.run_on_terminal(["-m", "ordtool", *arguments], cwd=tmp_path, **environment)

    return call


def test_a_terminal_gets_drawn_trees(on_a_terminal, parsers, sat):
    model = ["parse", "-m", parsers()]
    drawn, status = on_a_terminal(*model, "a.txt", NO_COLOR="")
    assert status == 0 and "┌" in drawn and "\x1b[36m" in drawn and '"tokens"' not in drawn
    plain, _ = on_a_terminal(*model, "a.txt", NO_COLOR="1")
    assert "\x1b" not in plain and "┌" in plain
    forced, _ = on_a_terminal(*model, "a.txt", "--json", NO_COLOR="")
    assert [list(json.loads(line)) for line in forced.split("\n")[:-1]] == [FIELDS] * 3


def test_waiting_for_a_keyboard_is_refused(on_a_terminal, parsers):
    printed, status = on_a_terminal("parse", "-m", parsers(), NO_COLOR="1")
    assert status == 2 and "no input: give a file" in printed and "| ordtool parse" in printed


def test_a_closed_pipe_is_silent(launcher, parsers, tmp_path):
    (tmp_path / "many.txt").write_text("The cat sat on the mat .\n" * 2_000)
    words = ["-m", "ordtool", "parse", "-m", parsers(), "many.txt"]
    line, status, errors = launcher.run_before_head(words, cwd=tmp_path)
    assert json.loads(line)["tokens"][0] == "The" and (status, errors) == (141, "")


def test_output_is_whole_or_not_at_all(parse, fails_in_process, parsers, sat):
    assert parse("a.txt", "-o", "out.jsonl").returncode == 0
    first = (sat / "out.jsonl").read_bytes()
    assert first == parse("a.txt").stdout
    assert "exists already" in fails_in_process("parse", "-m", parsers(), "a.txt", "-o", "out.jsonl")
    (sat / "bad.txt").write_bytes(b"it ran\n\xff\n")
    assert parse("bad.txt", "-o", "out.jsonl", "--force").returncode == 1
    assert (sat / "out.jsonl").read_bytes() == first
    # What was done is there to go on from, as after a kill.
    assert (sat / "out.jsonl.partial").read_bytes() == parse("bad.txt").stdout


def test_a_bad_record_is_skipped_when_told(parse, sat):
    (sat / "bad.jsonl").write_bytes(b'{"text": "it ran"}\n{"text": \n{"text": 3}\n{"text": "he sat"}\n')
    done = parse("bad.jsonl", "--on-error", "skip")
    assert [result["text"] for result in objects(done)] == ["it ran", "he sat"]
    assert (
        "2 bad records skipped" in done.stderr
        and "bad.jsonl:2" in done.stderr
        and "bad.jsonl:3" in done.stderr
    )
    stopped = parse("bad.jsonl")
    assert stopped.returncode == 1 and json.loads(stopped.stdout)["text"] == "it ran"


BAD_INPUTS = {
    "missing file": (["none.txt"], 1, "none.txt: no such file"),
    "directory without trees": (["empty"], 1, "empty: a folder without treebank files"),
    "invalid UTF-8": (["latin1.txt"], 1, "latin1.txt:2: invalid UTF-8 (byte 0xe9 at column 4)"),
    "malformed JSONL": (["bad.jsonl"], 1, "bad.jsonl:2: malformed JSON"),
    "JSONL without the field": (["other.jsonl"], 1, "other.jsonl:1: no field 'text' (keys: body)"),
    "a bracket that never closes": (["open.mrg"], 1, "open.mrg:3: the bracket that opens here never closes"),
    "text in a treebank": (["text.mrg"], 1, "text.mrg:1: expected a tree in brackets, found 'plain'"),
    "truncated gzip": (["cut.txt.gz"], 1, "cut.txt.gz: damaged gzip data"),
    "damaged gzip": (["bad.txt.gz"], 1, "bad.txt.gz: damaged gzip data"),
    "a model folder without weights": (["-m", "hollow", "a.txt"], 1, "hollow: no weights in it"),
    "a folder that is no model": (["-m", "empty", "a.txt"], 1, "empty: not a model folder"),
    "an unknown model": (["-m", "englsh", "a.txt"], 2, "unknown model 'englsh'"),
    "an unknown format": (["-f", "jsno", "a.txt"], 2, "unknown format 'jsno'"),
    "two formats": (["--json", "-f", "svg", "a.txt"], 2, "contradict each other"),
    "an unknown builder": (["-b", "papre", "a.txt"], 2, "unknown builder 'papre'"),
    "an unknown layer": (["--layer", "9", "a.txt"], 2, "there is no layer 9"),
    "an unknown input": (["--input", "xml", "a.txt"], 2, "unknown input format 'xml'"),
    "an unknown --on-error": (["--on-error", "ask", "a.txt"], 2, "unknown --on-error 'ask'"),
    "trees to be split": (["--split", "good.mrg"], 2, "good.mrg: holds trees"),
    "an output in a missing folder": (["-o", "no/out.jsonl", "a.txt"], 1, "the folder"),
}


@pytest.fixture
def bad_inputs(sat, parsers):
    (sat / "empty").mkdir()
    (sat / "latin1.txt").write_bytes(b"it ran\ncaf\xe9\n")
    (sat / "bad.jsonl").write_text('{"text": "it ran"}\n{"text": "it ran"\n')
    (sat / "other.jsonl").write_text('{"body": "it ran"}\n')
    (sat / "open.mrg").write_text("(S (NN a))\n\n(S (NP (NN b))\n")
    (sat / "good.mrg").write_text("(S (NN a))\n")
    (sat / "text.mrg").write_text("plain text\n")
    (sat / "cut.txt.gz").write_bytes(gzip.compress(b"it ran\n" * 1000)[:30])
    (sat / "bad.txt.gz").write_bytes(gzip.compress(b"it ran\n" * 1000)[:12] + b"\xff" * 40)
    (sat / "hollow").mkdir()
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (sat / "hollow" / name).write_bytes((Path(parsers()) / name).read_bytes())
    return sat


def test_bad_input_of_a_process(fails_forked, parsers, bad_inputs):
    for case in ("missing file", "invalid UTF-8"):
        arguments, status, message = BAD_INPUTS[case]
        assert message in fails_forked("parse", "-m", parsers(), *arguments, status=status)


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_and_a_hint(fails_in_process, parsers, bad_inputs, case):
    arguments, status, message = BAD_INPUTS[case]
    model = [] if "-m" in arguments else ["-m", parsers()]
    stderr = fails_in_process("parse", *model, *arguments, status=status)
    assert message in stderr
    assert "hint: " in stderr or case in ("an unknown layer",)


def test_empty_and_huge_inputs_are_no_errors(parse, sat):
    (sat / "empty.txt").write_bytes(b"")
    assert parse("empty.txt").stdout == b"" and parse("empty.txt").returncode == 0
    (sat / "empty.mrg").write_bytes(b"\n")
    assert parse("empty.mrg").stdout == b""
    (sat / "blank.txt").write_bytes(b"\n \n")
    assert [result["tree"] for result in objects(parse("blank.txt"))] == ["()", "()"]
    (sat / "huge.txt").write_text("the cat sat\n" + "x" * 250_000 + "\nit ran\n")
    results = objects(parse("huge.txt"))
    assert [len(result["tokens"]) for result in results] == [3, 1, 2]


@pytest.mark.slow
def test_a_quarter_of_a_megabyte_of_words_in_one_line(parse, sat):
    (sat / "long.txt").write_text("the old cat sat on it, " * 11_000)
    [result] = objects(parse("long.txt"))
    assert len(result["tokens"]) == 7 * 11_000 and len(result["spans"]) == 6 * 11_000 - 1


def test_old_names_of_options_go_on_with_a_note(parse, sat):
    new = parse("--right-branching-bias", "0.5", "--no-punctuation", "a.txt")
    old = parse("--tilt=0.5", "--no-marks", "a.txt")
    assert old.stdout == new.stdout and "note" not in new.stderr
    assert "--tilt is called --right-branching-bias now" in old.stderr
    assert "--no-marks is called --no-punctuation now" in old.stderr
    shown = parse("--help").stdout.decode()
    assert "--right-branching" in shown and "--tilt" not in shown and "--marks" not in shown


def test_what_follows_two_dashes_is_no_option(parse, sat):
    (sat / "--tilt").write_text("One.\n")
    done = parse("--", "--tilt")
    assert done.returncode == 0 and done.stderr == "" and b"One" in done.stdout
