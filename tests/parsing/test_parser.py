import json
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.loading import load_parser
from ordtool.parsing.parser import Parser, parse
from ordtool.parsing.result import Parse
from ordtool.parsing.text.tokenize import Sentence
from ordtool.parsing.trees.builders import mix_distances, paper_spans, unbiased_spans
from ordtool.parsing.trees.chart import CHART_LIMIT, chart_spans, vote_scores

TEXTS = [
    "The old cat sat on the mat.",
    "",
    "She said: “The dog (a red one) ran!”",
    "   ",
    "...",
    "It ran",
    "He didn't.",
    "Yes",
    "The cat sat and the dog ran and it sat on the old red mat in the old red mat, not running.",
]


def config(*folders, **options):
    return ParseConfig(
        model=tuple(str(folder) for folder in folders), **({"dtype": "float32", "device": "cpu"} | options)
    )


def spans_over_words(result):
    """The spans of a result over its words alone, as the model saw them."""
    from ordtool.parsing.trees.punctuation import is_punctuation

    position = [0, *np.cumsum([not is_punctuation(token) for token in result.tokens]).tolist()]
    return {(position[a], position[b]) for a, b in result.spans if position[b] - position[a] > 1}


def test_distances_are_those_of_the_model(parsers):
    torch = pytest.importorskip("torch")
    from ordtool.parsing.onlstm.model import OnlstmForCausalLM
    from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer

    folder = parsers(half=True)
    reader = load_parser(folder)
    model = OnlstmForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = OnlstmTokenizer.from_pretrained(folder)
    words = [["the", "cat"], ["The", "zebras", "went", "running"], ["it"] * 700]
    ids = reader.vocabulary.encode_words(words)
    assert ids == tokenizer.encode_words(words) == [[4, 6], [4, 1, 1, 3], [13] * 700]
    padded = torch.zeros(3, 700, dtype=torch.long)
    for row, sentence in enumerate(ids):
        padded[row, : len(sentence)] = torch.tensor(sentence)
    expected = model.syntactic_distances(padded, torch.tensor([2, 4, 700])).numpy()
    for row, found in enumerate(reader.distances(ids)):
        np.testing.assert_allclose(found, expected[:, row, : len(ids[row])], atol=1e-6)
    for found, whole in zip(reader.distances(ids, depth=1), reader.distances(ids), strict=True):
        np.testing.assert_array_equal(found, whole[:1])


def test_a_line_longer_than_any_sentence_is_read_in_pieces(parsers):
    reader = load_parser(parsers())
    words = np.random.default_rng(0).integers(4, 20, 5_000).tolist()
    short, whole = reader.distances([words[:7], words], depth=2)
    assert whole.shape == (2, 5_000)
    np.testing.assert_allclose(short, reader.distances([words[:7]], depth=2)[0], atol=1e-6)
    np.testing.assert_allclose(whole[:, :1024], reader.distances([words[:1024]], depth=2)[0], atol=1e-6)
    for start in (1024, 2048, 4096):
        here = whole[:, start : start + 1024]
        with_words_before = reader.distances([words[start - 128 : start + 1024]], depth=2)[0][:, 128:]
        without = reader.distances([words[start : start + 1024]], depth=2)[0]
        # float32 sums depend on the batch's shape, so what is left is held against what the words before change.
        assert abs(here - with_words_before).max() < 1e-4 * abs(here - without).max()


def test_results_hold_the_text_and_one_number_a_token(parsers):
    results = list(parse(TEXTS, config(parsers())))
    assert [result.text for result in results] == TEXTS
    for result in results:
        assert [result.text[start:end] for start, end in result.offsets] == result.tokens
        assert "".join(result.tokens) == "".join(result.text.split())
        assert len(result.distances) == len(result.tokens)
        assert all(0 <= distance <= 1 for distance in result.distances)
        assert len(result.tokens) < 2 or result.spans[0] == (0, len(result.tokens))
        assert list(result.to_dict()) == ["text", "tokens", "offsets", "distances", "spans", "tree"]
    assert [results[k].tree for k in (1, 3, 4, 7)] == ["()", "()", "(...)", "(Yes)"]
    assert results[2].distances[-1] == 0 and results[2].tokens[2] == ":" and results[2].distances[2] == 0


@pytest.mark.parametrize("builder", ["paper", "unbiased"])
def test_trees_are_built_from_the_distances_of_the_layer(parsers, builder):
    reader = load_parser(parsers())
    words = "the old cat sat on the mat".split()
    layers = reader.distances(reader.vocabulary.encode_words([words]))[0]
    build = {"paper": paper_spans, "unbiased": unbiased_spans}[builder]
    for layer, heights in (
        (None, layers[1]),
        ("3", layers[2]),
        ("1:0.25, 3:0.75", mix_distances(layers, [0.25, 0, 0.75])),
    ):
        [result] = parse(["the old cat sat on the mat."], config(parsers(), builder=builder, layer=layer))
        assert spans_over_words(result) == set(build(heights))
        np.testing.assert_allclose(result.distances[:-1], heights, atol=1e-6)


def test_batches_and_windows_change_nothing(parsers):
    texts = TEXTS * 12
    alone = [next(parse([text], config(parsers()))) for text in TEXTS] * 12
    for size in (1, 3, 128):
        together = list(parse(texts, config(parsers(), batch_size=size)))
        for one, other in zip(alone, together, strict=True):
            assert one.spans == other.spans and one.tokens == other.tokens
            np.testing.assert_allclose(one.distances, other.distances, atol=2e-6)


def test_bfloat16_is_close(parsers):
    for one, other in zip(
        *(parse(TEXTS, config(parsers(), dtype=d)) for d in ("float32", "bfloat16")), strict=True
    ):
        np.testing.assert_allclose(one.distances, other.distances, atol=0.02)


def test_the_same_twice_is_the_same_bytes(parsers):
    def lines():
        return [json.dumps(result.to_dict()) for result in parse(TEXTS, config(parsers()))]

    assert lines() == lines()


def test_models_vote(parsers):
    folders = [parsers(), parsers(seed=1), parsers(seed=2)]
    text = TEXTS[-1].replace(",", "").replace(".", "")
    trees = [spans_over_words(next(parse([text], config(folder)))) for folder in folders]
    [voted] = parse([text], config(*folders))
    length = len(text.split())
    assert spans_over_words(voted) == set(chart_spans(vote_scores(trees, length)))
    [same] = parse([text], config(folders[0], folders[0]))
    assert spans_over_words(same) == trees[0]
    [chart] = parse([text], config(folders[0], builder="chart"))
    [unbiased] = parse([text], config(folders[0], builder="unbiased"))
    assert chart.spans == unbiased.spans
    [soft] = parse([text], config(*folders, builder="chart"))
    assert len(soft.spans) == length - 1


def test_models_that_read_other_tokens_do_not_vote(parsers):
    with pytest.raises(UsageError, match="reads other tokens"):
        Parser(config(parsers(), parsers(token_kind="chars")))


def test_tokens_of_other_kinds(parsers):
    [result] = parse(["don't  stop ."], config(parsers(), tokens="whitespace"))
    assert result.tokens == ["don't", "stop", "."] and result.offsets == [(0, 5), (7, 11), (12, 13)]
    [result] = parse(["我们喜欢。"], config(parsers(token_kind="chars")))
    assert result.tokens == list("我们喜欢。")
    [result] = parse(["The cat, it sat."], config(parsers(drop_punctuation=False)))
    assert len(result.spans) == 5 and all(result.distances)  # punctuation is read like words


def test_a_sentence_of_two_thousand_words(parsers):
    for length, builder in ((2_000, "paper"), (2_000, "unbiased"), (12_000, "paper")):
        [result] = parse(
            [" ".join(["the", "cat", "sat", ","] * (length // 4))], config(parsers(), builder=builder)
        )
        assert len(result.tokens) == length and len(spans_over_words(result)) == length * 3 // 4 - 1


class Listener:
    def __init__(self):
        self.warnings, self.done = [], 0

    def advance(self, amount=1, **stats):
        self.done += amount

    def warn(self, message):
        self.warnings.append(message)

    def note(self, message): ...
    def start(self, description, total, unit): ...
    def close(self): ...


def test_a_sentence_too_long_for_the_chart_is_parsed_and_told_once(parsers):
    long = " ".join(["the cat sat"] * (CHART_LIMIT // 3 + 1))
    listener = Listener()
    sentences = [Sentence(long, where="a.txt:1"), Sentence(long), Sentence("it ran")]
    results = list(parse(sentences, config(parsers(), parsers(seed=1)), progress=listener))
    assert len(results[0].spans) == CHART_LIMIT // 3 * 3 + 2 and listener.done == 3
    words = f"{CHART_LIMIT // 3 * 3 + 3:,}"
    assert listener.warnings == [
        f"a.txt:1: a sentence of {words} words is too long for the chart ({CHART_LIMIT:,} at most);"
        " such sentences get the tree of the mean distances"
    ]


def test_memory_stays_flat(parsers):
    parser = Parser(config(parsers(), batch_size=2))  # reads 128 sentences ahead

    def peak(count):
        tracemalloc.start()
        for _ in parser.parse(f"the cat {k % 10} sat" for k in range(count)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few = peak(250)
    assert peak(1_000) < 1.5 * few  # four times, were results kept


def test_what_was_read_before_an_error_is_parsed(parsers):
    def source():
        yield "the cat sat"
        yield "it ran"
        raise OrdtoolError("a.txt:3: invalid UTF-8")

    results = parse(source(), config(parsers()))
    assert [next(results).text, next(results).text] == ["the cat sat", "it ran"]
    with pytest.raises(OrdtoolError, match="a.txt:3"):
        next(results)


def test_keys_pass_through_and_the_text_keeps_its_place():
    result = Parse("a", ["a"], [(0, 1)], [0.5], [], data={"id": 7, "text": "a", "lang": "en"})
    assert json.dumps(result.to_dict()) == (
        '{"id": 7, "text": "a", "lang": "en", "tokens": ["a"], "offsets": [[0, 1]], "distances": [0.5], "spans": [],'
        ' "tree": "(a)"}'
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"builder": "papre"}, "unknown builder 'papre'"),
        ({"layer": "4"}, "no layer 4: the model has layers 1 to 3"),
        ({"layer": "two"}, "is no layer"),
        ({"layer": "1:0"}, "gives no layer any weight"),
        ({"tokens": "bytes"}, "unknown tokens 'bytes'"),
    ],
)
def test_options_that_mean_nothing(parsers, options, message):
    with pytest.raises(UsageError) as caught:
        Parser(replace(config(parsers()), **options))
    assert message in caught.value.message and caught.value.hint is not None or "layer" in message


def test_folders_that_hold_no_parser(parsers, tmp_path):
    folder = tmp_path / "model"

    def broken(change):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(parsers(), folder)
        change(folder)
        with pytest.raises(OrdtoolError) as caught:
            Parser(config(folder))
        return caught.value.message

    def edit(name, **changes):
        def change(path):
            data = json.loads((path / name).read_text()) | changes
            (path / name).write_text(json.dumps(data))

        return change

    def cut(path):
        weights = path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:900])

    assert "no weights" in broken(lambda path: (path / "model.safetensors").unlink())
    assert "model.safetensors: damaged" in broken(cut)
    assert "model of type 'llama'" in broken(edit("config.json", model_type="llama"))
    assert "malformed JSON" in broken(lambda path: (path / "config.json").write_text("{"))
    assert "vocab.txt: can't read" in broken(lambda path: (path / "vocab.txt").unlink())
    assert "embeddings, 2 words" in broken(lambda path: (path / "vocab.txt").write_text("<eos>\n<unk>\n"))
    assert "no <eos>" in broken(lambda path: (path / "vocab.txt").write_text("<unk>\n"))
    assert "layers.3.weight_ih is missing" in broken(edit("config.json", num_hidden_layers=4))
    assert "has recurrent weights of shape" in broken(edit("config.json", chunk_size=10))
    assert "2 numbers for 3 layers" in broken(edit("config.json", parse_layer_weights=[1, 2]))
