"""One text, one path or one label where many are meant: it is one thing in every entry point, never a list of letters."""

import numpy as np
import pytest

import ordtool
from ordtool.arguments import as_many, as_strings, is_one
from ordtool.errors import OrdtoolError, UsageError

SENTENCE = "The cat sat on the mat."


@pytest.fixture
def options(parsers):
    return {"model": str(parsers()), "device": "cpu", "dtype": "float32"}


def test_a_text_and_a_path_are_one_and_lists_are_many(tmp_path):
    assert is_one("abc") and is_one(tmp_path) and not is_one(["abc"]) and not is_one(range(3))
    assert as_many("abc") == ("abc",) and as_many(["a", "b"]) == ["a", "b"] and as_many(3, int) == (3,)
    assert as_strings(tmp_path) == (str(tmp_path),) and as_strings(()) == ()
    with pytest.raises(UsageError, match="bytes"):
        as_many(b"abc")


def test_one_sentence_has_one_parse(options):
    [result] = ordtool.parse([SENTENCE], **options)
    assert ordtool.parse(SENTENCE, **options) == result
    assert ordtool.Parser(ordtool.parsing.config.ParseConfig(**options)).parse(SENTENCE) == result
    assert result.tokens == ["The", "cat", "sat", "on", "the", "mat", "."]


def test_several_models_vote_and_one_may_be_named_alone(options, parsers):
    two = [str(parsers()), str(parsers(seed=1))]
    assert ordtool.parse(SENTENCE, **options | {"model": two}).spans
    assert ordtool.parse(SENTENCE, **options | {"model": two[:1]}) == ordtool.parse(SENTENCE, **options)


def test_tokens_are_taken_as_they_are(options):
    [result] = ordtool.parse([["the", "old cat", "sat"]], **options)
    assert result.tokens == ["the", "old cat", "sat"] and result.text == "the old cat sat"
    assert [result.text[start:end] for start, end in result.offsets] == result.tokens
    for nonsense in (3, None, [1, 2]):
        with pytest.raises(UsageError, match="a sentence can't be"):
            list(ordtool.parse([nonsense], **options))


def test_spacys_sentences_keep_their_tokens_and_tags(options):
    spacy = pytest.importorskip("spacy")
    document = spacy.blank("en")("A dog ran.  The cat sat on it.")
    for token in document:
        token.tag_ = "." if token.is_punct else "X"
    first, second = ordtool.parse([document[:4], document[5:]], **options)
    assert first.tokens == ["A", "dog", "ran", "."] and first.tags == ("X", "X", "X", ".")
    assert second.text == "The cat sat on it." and second.offsets[0] == (0, 3)
    [whole] = ordtool.parse([document], **options)
    assert whole.tokens == [*first.tokens, *second.tokens]


def test_a_notebook_gets_a_picture_and_programs_get_trees(options):
    result = ordtool.parse(SENTENCE, **options)
    assert result._repr_svg_() == result.to_svg() and result.to_svg().startswith("<svg")
    tree = result.to_nltk()
    assert tree.leaves() == result.tokens and str(tree).split() == result.penn.split()
    drawn = result.draw(width=100)
    assert drawn.splitlines()[-1] == "The cat sat on the mat ." and "\x1b" not in drawn
    assert ordtool.parse("", **options).to_nltk() is None


def test_one_text_has_one_vector():
    rows = ordtool.embed([SENTENCE, "A dog."], model="static")
    assert rows.shape == (2, 240)
    np.testing.assert_array_equal(ordtool.embed(SENTENCE, model="static"), rows[0])
    np.testing.assert_array_equal(ordtool.embed(iter([SENTENCE, "A dog."]), model="static"), rows)


def test_one_prompt_has_one_result(writers):
    model = str(writers("llama"))
    [result] = ordtool.generate(["the cat"], model, max_new_tokens=4)
    again = ordtool.generate("the cat", model, max_new_tokens=4)
    assert again == result and str(again) == again.text == result.outputs[0].text
    assert ordtool.generate("the cat", model, max_new_tokens=4, stop=again.text[:2]).text == ""


def test_one_text_is_labelled(encoders):
    import torch

    from ordtool.prediction.text_classifiers import CheckpointClassifier

    classifier = CheckpointClassifier.load(encoders("classifier"), torch.device("cpu"))
    probabilities, vectors = classifier.predict(["the cat sat"])
    one, vector = classifier.predict("the cat sat")
    assert one.shape == (2,) and vector.shape == (24,)
    np.testing.assert_array_equal(one, probabilities[0])
    np.testing.assert_array_equal(vector, vectors[0])


def test_a_system_message_is_part_of_a_chat(writers):
    from ordtool.generation.prompts import PromptStyle

    model = str(writers("chat"))
    said = ordtool.generate("the cat", model, system="was it red", max_new_tokens=8)
    style = PromptStyle(system="was it red")
    assert ordtool.generate("the cat", model, style=style, max_new_tokens=8) == said
    assert ordtool.generate("the cat", model, max_new_tokens=8) != said


def test_one_text_is_scored_against_one_reference():
    whole = ordtool.score_text([SENTENCE], [["The cat sat on a mat."]])
    assert ordtool.score_text(SENTENCE, "The cat sat on a mat.") == whole
    assert ordtool.score_text([SENTENCE], ["The cat sat on a mat."]) == whole


def test_strings_are_class_labels_in_hsic():
    rng = np.random.default_rng(0)
    labels = ["no", "yes"] * 20
    x = rng.standard_normal((40, 2)) + np.array([[0.0], [3.0]] * 20)
    vectors = np.eye(2)[[0, 1] * 20]
    for given in (labels, np.array(labels), np.array(labels, dtype=object)):
        found = ordtool.hsic(x, given, permutations=50)
        assert found.statistic == pytest.approx(ordtool.hsic(x, vectors, permutations=50).statistic, rel=1e-5)
        assert ordtool.cka(x, given) == pytest.approx(ordtool.cka(x, vectors), rel=1e-5)


def test_one_path_is_read_by_every_reader(tmp_path):
    from ordtool.embedding.embed_config import EmbedConfig
    from ordtool.generation.scoring import read_references
    from ordtool.io.text import read_documents, read_records
    from ordtool.parsing.text.reader import InputConfig, read_inputs, read_sentences
    from ordtool.tuning.data import Fields, read_examples

    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\treferences\none\tno\tein\ntwo\tyes\tzwei\n")
    for read in (
        read_records,
        read_documents,
        read_references,
        read_sentences,
        lambda paths: read_inputs(paths, InputConfig()),
        lambda paths: read_examples(paths, Fields()),
        lambda paths: EmbedConfig(inputs=paths).inputs,
    ):
        assert list(read(str(path))) == list(read(path)) == list(read([path])) != []


def test_one_path_is_read(tmp_path):
    from ordtool.io.text import read_records

    (tmp_path / "gold.mrg").write_text("(S (NP (DT The) (NN cat)) (VP (VBD sat)))\n")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    for path in (tmp_path / "gold.mrg", str(tmp_path / "gold.mrg")):
        assert [tree.tokens for tree in ordtool.read_trees(path)] == [
            tree.tokens for tree in ordtool.read_trees([path])
        ]
    assert [record.text for record in read_records(str(tmp_path / "a.txt"))] == ["one", "two"]


def trainings(model):

    yield lambda: ordtool.train_lm("lost.txt", "out")
    yield lambda: ordtool.train_seq2seq("lost.txt", "out", model=model)
    yield lambda: ordtool.train_ladder("lost.txt", "out", model=model)
    yield lambda: ordtool.train_parser("lost.txt", "out")
    yield lambda: ordtool.train_spans("lost.txt", "out")


def test_one_file_is_trained_on(tmp_path, monkeypatch, encoders):
    monkeypatch.chdir(tmp_path)
    for train in trainings(str(encoders("bert"))):
        with pytest.raises(OrdtoolError, match=r"lost\.txt"):
            train()
