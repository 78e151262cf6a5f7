"""Files in, a file of trees out: what survives a kill, and how far it is."""

import os
import random
import signal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ordtool.errors import OrdtoolError
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.files import ParseFilesConfig, parse_files
from ordtool.parsing.parser import Parser
from ordtool.parsing.text.tokenize import Sentence
from ordtool.parsing.trees.html import draw_html
from ordtool.progress import Silent

WORDS = "the old cat sat on a mat and she ran to him in May , not ( far ) ; it said so".split()


def sentence(generator):
    words = generator.choices(WORDS, k=generator.randrange(3, 25))
    return " ".join(words).capitalize() + "."


@pytest.fixture
def book(tmp_path):
    generator = random.Random(3)
    paragraphs = [" ".join(sentence(generator) for _ in range(generator.randrange(1, 6))) for _ in range(90)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs) + "\n")
    return tmp_path


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_killed_and_resumed_is_uninterrupted(run_in_process, launcher, parsers, book, format, kills_itself):
    command = ["parse", "-m", str(parsers()), "--split", "book.txt", "--batch-size", "2"]
    whole = run_in_process(*command, "-o", f"whole.{format}")
    assert whole.returncode == 0
    killed = launcher.run(["-c", kills_itself, *command, "-o", f"t.{format}"], cwd=book)
    assert killed.returncode == -signal.SIGKILL
    partial = (book / f"t.{format}.partial").read_bytes()
    assert 0 < len(partial) and not (book / f"t.{format}").exists()
    assert "--resume goes on with it" in run_in_process(*command, "-o", f"t.{format}").stderr
    other = run_in_process(*command, "-o", f"t.{format}", "--no-punctuation", "--resume")
    assert other.returncode == 1 and "other settings (punctuation)" in other.stderr
    resumed = run_in_process(*command, "-o", f"t.{format}", "--resume")
    assert resumed.returncode == 0 and "going on after" in resumed.stderr
    assert (book / f"t.{format}").read_bytes() == (book / f"whole.{format}").read_bytes()
    assert [path.name for path in book.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("The cat sat. It was old.\nShe ran to him. He was not there.\n", True),
        ("The cat sat on Mt. Hood.\nShe ran to Mr. Smith. He was not there.\nIt was old.\n", False),
    ],
)
def test_lines_of_several_sentences_are_told(run_in_process, parsers, tmp_path, text, several):
    (tmp_path / "a.txt").write_text(text)
    command = ["parse", "-m", str(parsers()), "a.txt"]
    assert ("--split makes a tree of each" in run_in_process(*command).stderr) == several
    assert "--split" not in run_in_process(*command, "--tokenized").stderr


@pytest.mark.parametrize("chosen", ["svg", "html", "tree"])
def test_only_lines_are_resumed(fails_in_process, parsers, book, chosen):
    arguments = ["parse", "-m", parsers(), "book.txt", "-f", chosen, "-o", "t", "--resume"]
    assert f"needs an output of records, and {chosen} is none" in fails_in_process(*arguments, status=2)


@pytest.fixture
def config(parsers):
    return ParseConfig(model=str(parsers()), dtype="float32", device="cpu", batch_size=4)


def test_what_is_parsed_together_is_parsed_as_alone(config):
    generator = random.Random(5)
    sentences = [Sentence(sentence(generator)) for _ in range(400)]
    parser = Parser(config)
    assert parser.parse_together(sentences) == list(parser.parse(sentences))


class Bar(Silent):
    def __init__(self):
        self.started = None
        self.moves = []

    def start(self, description, total, unit):
        self.started = (total, unit)

    def advance(self, amount=1, **stats):
        self.moves.append(amount)


INPUTS = {
    "a.txt": "".join(f"The cat number {k} sat.\r\n\n" for k in range(40)),
    "a.jsonl": "".join(f'{{"text": "It ran {k}.", "id": {k}}}\n' for k in range(100)),
    "a.json": '[{"text": "It ran."},\n{"text": "He sat."}]',
    "a.mrg": "(S (NP (DT The)\n (NN cat)) (VP (VBD sat)))\n" * 50,
    "a.conllu": "# text = It ran.\n1\tIt"
    + "\t_" * 8
    + "\n2\tran"
    + "\t_" * 8
    + "\n3\t."
    + "\t_" * 8
    + "\n\n",
}


def test_the_bar_knows_how_much_of_the_files_is_done(tmp_path, config):
    paths = [tmp_path / name for name in INPUTS]
    for path in paths:
        path.write_bytes(INPUTS[path.name].encode())
    bar = Bar()
    parse_files(ParseFilesConfig(tuple(map(str, paths)), tmp_path / "out.jsonl", parse=config), bar)
    size = sum(map(os.path.getsize, paths))
    assert bar.started == (size, "B")
    assert len(bar.moves) >= 2 and min(bar.moves) >= 0
    assert 0.99 * size - 10 <= sum(bar.moves) <= size


def test_what_has_no_size_is_counted_in_sentences(tmp_path, config):
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(b"It ran.\nHe sat.\n"))
    bar = Bar()
    parse_files(ParseFilesConfig((str(tmp_path / "a.gz"),), tmp_path / "out.jsonl", parse=config), bar)
    assert bar.started == (None, "sentences") and sum(bar.moves) == 2


class Page(HTMLParser):
    """Reads the trees of a page back."""

    def __init__(self, page):
        super().__init__()
        self.trees, self.depth, self.leaf = [], 0, False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag != "script" and not {name for name, _ in attributes} & {"src", "href", "onclick"}
        if tag == "details":
            if not self.depth:
                self.trees.append(([], set()))
                self.begun = []
            self.begun.append(len(self.trees[-1][0]))
            self.depth += 1
        self.leaf = tag == "b"

    def handle_endtag(self, tag):
        self.leaf = False
        if tag == "details":
            self.depth -= 1
            self.trees[-1][1].add((self.begun.pop(), len(self.trees[-1][0])))

    def handle_data(self, data):
        if self.leaf:
            self.trees[-1][0].append(data)


def test_a_page_holds_the_trees(config):
    generator = random.Random(11)
    texts = [sentence(generator) for _ in range(30)] + ["", "Yes", 'a < b & "c" </b> <script> \x01']
    parses = list(Parser(config).parse(texts))
    page = "".join(draw_html((parse.tokens, parse.spans) for parse in parses))
    assert page.startswith("<!DOCTYPE html>") and "http" not in page
    read = Page(page)
    assert read.depth == 0 and len(read.trees) == len(parses)
    for parse, (tokens, spans) in zip(parses, read.trees, strict=True):
        assert tokens == [token.replace("\x01", "�") for token in parse.tokens]
        assert {span for span in spans if span[1] - span[0] > 1} == set(parse.spans)


def test_a_page_of_a_very_deep_tree_does_not_nest_beyond_what_browsers_do():
    tokens = [f"w{k}" for k in range(1000)]
    page = "".join(draw_html([(tokens, [(k, 1000) for k in range(999)])]))
    assert page.count("<details") == page.count("</details>") < 400
    assert Page(page).trees[0][0] == tokens


def test_a_picture_that_no_program_shows_is_refused_early(tmp_path, config):
    (tmp_path / "a.txt").write_text("The cat sat on the mat.\n" * 100_000)
    job = ParseFilesConfig((str(tmp_path / "a.txt"),), tmp_path / "a.svg", "svg", config)
    with pytest.raises(OrdtoolError, match="trees make a picture of more than 32,767 pixels") as caught:
        parse_files(job)
    assert "`output_format=html`" in caught.value.hint
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.txt"]
