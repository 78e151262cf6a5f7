"""Trees of treebanks: flat phrases, labels and tags, soft votes, encoders, teachers."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.loading import load_parser
from ordtool.parsing.parser import parse
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.spans.data import read_teacher_trees
from ordtool.parsing.spans.examples import Targets, make_example, pad_batch, span_loss
from ordtool.parsing.spans.model import SpanConfig, SpanModel
from ordtool.parsing.spans.training import train_spans
from ordtool.parsing.spans.words import (
    AffixVocabulary,
    PieceVocabulary,
    hide_words,
    unpack_affixes,
    unpack_pieces,
    word_shape,
)
from ordtool.parsing.trees.chart import flat_trees
from ordtool.parsing.trees.treebank import read_trees
from ordtool.progress import Silent


def nested_sets(spans):
    """Every set of spans no two of which cross."""
    for size in range(len(spans) + 1):
        for chosen in combinations(spans, size):
            if all(
                b <= c or d <= a or a <= c < d <= b or c <= a < b <= d
                for (a, b), (c, d) in combinations(chosen, 2)
            ):
                yield chosen


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_the_best_nested_set_is_that_of_brute_force(length):
    random = np.random.default_rng(length)
    spans = [(a, b) for a in range(length) for b in range(a + 2, length + 1) if b - a < length]
    for _ in range(5):
        gains = random.normal(size=(1, length, length + 1))
        [(found, distances)] = flat_trees(gains, [length])
        inner = [span for span in found if span[1] - span[0] < length]
        best = max(sum(gains[0, a, b] for a, b in chosen) for chosen in nested_sets(spans))
        assert sum(gains[0, a, b] for a, b in inner) == pytest.approx(best)
        assert found[:1] == ([(0, length)] if length > 1 else [])
        assert distances.shape == (length,)


def test_the_best_nested_set_of_six_words_beside_shorter_sentences():
    random = np.random.default_rng(6)
    gains = random.normal(size=(3, 6, 7))
    for table, length, (found, _) in zip(gains, (6, 2, 4), flat_trees(gains, [6, 2, 4]), strict=True):
        spans = [(a, b) for a in range(length) for b in range(a + 2, length + 1) if b - a < length]
        positive = [span for span in spans if table[span] > 0]
        best = max(sum(table[span] for span in chosen) for chosen in nested_sets(positive))
        assert sum(table[span] for span in found[1:]) == pytest.approx(best)


def test_affixes_and_shapes_come_out_of_a_number_as_they_went_in():
    vocabulary = AffixVocabulary(["<eos>", "<unk>", "walked", "talked", "the"])
    numbers = torch.tensor(vocabulary.encode_words([["Walked", "talked", "hopped", "B-52"]]))
    ids, rows = unpack_affixes(numbers)
    assert ids.tolist() == [[2, 3, 1, 1]]
    assert rows[0, 0, 1:3].tolist() == rows[0, 1, 1:3].tolist()  # -ed, -ked
    assert rows[0, 2, 1] == rows[0, 1, 1] and rows[0, 2, 2] != rows[0, 1, 2]
    assert rows[0, :, 0].tolist() == [1, 0, 0, word_shape("B-52")]
    hidden = hide_words(vocabulary, numbers, torch.tensor([[True, False, False, False]]))
    assert unpack_affixes(hidden)[0].tolist() == [[1, 3, 1, 1]]
    assert torch.equal(unpack_affixes(hidden)[1], rows)


@pytest.mark.parametrize(
    ("word", "shape"),
    [("cat", 0), ("Cat", 1), ("I", 1), ("USA", 2), ("iPad", 3), ("1990s", 4), ("e-mail", 8), ("%", 0)],
)
def test_shapes(word, shape):
    assert word_shape(word) == shape


NOUNS, VERBS = "dog cat man woman tree river".split(), "sees likes finds".split()


def noun_phrase(random, depth=0):
    adjectives = [f"(JJ {random.choice(['old', 'young', 'big'])})" for _ in range(random.integers(0, 3))]
    plain = f"(NP (DT the) {' '.join(adjectives)} (NN {random.choice(NOUNS)}))"
    if depth == 0 and random.random() < 0.3:
        return f"(NP {plain} (PP (IN near) {noun_phrase(random, 1)}))"
    return "(NP (PRP she))" if random.random() < 0.2 else plain


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    """Flat noun phrases of up to four words, unary ones, and a sentence that is a unary chain."""
    random = np.random.default_rng(0)
    lines = ["(FRAG (NP (DT the) (NN dog)) (. .))"] * 20
    for _ in range(500):
        verb = f"(VP (VBZ {random.choice(VERBS)}) {noun_phrase(random)})"
        lines.append(f"(S {noun_phrase(random)} {verb} (. .))")
    path = tmp_path_factory.mktemp("treebank") / "trees.mrg"
    path.write_text("\n".join(lines) + "\n")
    return path


TINY = {
    "vocab_size": 60, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "span_size": 16, "batch_words": 200, "epochs": 8, "learning_rate": 5e-3, "seed": 3, "dtype": "float32",
    "affixes": True, "label_weight": 0.5, "holdout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(treebank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gold") / "model"
    history = train_spans([treebank], folder, SpanTrainingConfig(**TINY))
    return folder, history


def on_cpu(folder, **options):
    return ParseConfig(model=(str(folder),), device="cpu", dtype="float32", **options)


def test_flat_phrases_stay_flat_and_have_labels(trained):
    folder, history = trained
    assert history[-1]["agreement"] > 97
    [result, short] = parse(["She likes the big old dog .", "the dog ."], on_cpu(folder))
    assert result.penn == (
        "(S (NP (PRP She)) (VP (VBZ likes) (NP (DT the) (JJ big) (JJ old) (NN dog))) (. .))"
    )
    assert result.spans == [(0, 7), (1, 6), (2, 6)]
    assert short.penn == "(FRAG (NP (DT the) (NN dog)) (. .))"
    assert [list(node) for node in result.constituents] == result.to_dict()["constituents"]
    assert result.tags == ("PRP", "VBZ", "DT", "JJ", "JJ", "NN", ".")
    assert result.to_nltk().label() == "S"


def test_binary_trees_come_by_an_option_a_builder_or_a_vote(trained):
    folder, _ = trained
    text = ["She likes the big old dog."]
    for config in (
        on_cpu(folder, binary=True),
        on_cpu(folder, builder="unbiased"),
        ParseConfig(model=(str(folder), str(folder)), device="cpu", dtype="float32"),
    ):
        [result] = parse(text, config)
        assert len(result.spans) == 5 and result.constituents is None


def test_labels_read_back_are_those_written(trained, tmp_path):
    folder, _ = trained
    texts = ["The dog ( the cat ) sees ( she ) the tree .", "Dogs", "", "...", '( " ) she sees']
    for result in parse(texts, on_cpu(folder)):
        if result.tokens:
            path = tmp_path / "t.mrg"
            path.write_text(result.penn)
            [tree] = read_trees([path])
            assert list(tree.tokens) == result.tokens
            if result.constituents:
                assert [tuple(c) for c in tree.constituents] == [tuple(c) for c in result.constituents]


def test_labels_of_chains_are_joined_and_rare_ones_lose_their_top(tmp_path):
    (tmp_path / "t.mrg").write_text("(S (VP (VBG running) (NP (NP (NN home)))) (. .))")
    [tree] = read_teacher_trees([tmp_path / "t.mrg"], Silent())
    assert tree.labels == {(0, 2): "S+VP", (1, 2): "NP+NP"} and tree.tags == ["VBG", "NN"]
    example = make_example(tree, {"": 0, "NP": 1, "VP": 2}, {"NN": 0})
    assert sorted(map(tuple, example.labels.tolist())) == [(0, 1, 0), (0, 2, 2), (1, 2, 1)]
    assert example.tags.tolist() == [-100, 0]


def test_soft_votes_are_targets(tmp_path):
    """The gradient of a span's score is (p of the model - p of the teachers) / spans that count."""
    record = {
        "tokens": ["a", "b", ",", "c", "d"],
        "spans": [[0, 5]],
        "posteriors": [[0, 2, 0.75], [0, 3, 0.5], [3, 5, 0.2]],
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(record))
    [tree] = read_teacher_trees([tmp_path / "t.jsonl"], Silent())
    assert tree.shares == [(0, 2, 0.75), (2, 4, 0.2)]
    model = SpanModel(SpanConfig(9, 4, 8, 1, 2, 8, 4)).double().eval()
    batch = pad_batch([[2, 3, 4, 5]], [tree.punctuation], torch.device("cpu"))
    targets = Targets.of([make_example(tree, {}, {})], 4, torch.device("cpu"))
    span_loss(model, batch, targets, 1.0).backward()
    chances = model(batch.words, batch.punctuation, batch.lengths)[0].sigmoid()
    wanted = {(0, 2): 0.75, (2, 4): 0.2, (1, 3): 0.0, (0, 3): 0.0, (1, 4): 0.0}
    expected = sum(float(chances[span].detach()) - share for span, share in wanted.items()) / 5
    # A constant added to all scores through the starts' bias moves each of them alike.
    assert float(model.ends.bias.grad[0]) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small BERT with a WordPiece tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert") / "encoder"
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *',;()-".*',
        *NOUNS,
        *VERBS,
        "the",
        "she",
        "old",
        "young",
        "big",
        "near",
    ]
    pieces += ["l", "##ike", "##s", "d", "##o", "##gs"]
    tokenizer = Tokenizer(models.WordPiece({piece: k for k, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_pieces_come_out_of_a_number_as_they_went_in(encoder):
    from tokenizers import Tokenizer

    vocabulary = PieceVocabulary(Tokenizer.from_file(str(encoder / "tokenizer.json")))
    [[one, many, none]] = vocabulary.encode_words([["dog", "dogsssss" + "s" * 30, "\N{SNOWMAN}"]])
    assert vocabulary.bits == 6 and vocabulary.per_word == 10
    pieces = unpack_pieces(torch.tensor([one, many, none]), vocabulary.bits).tolist()
    names = [[vocabulary._tokenizer.id_to_token(p - 1) for p in row if p] for row in pieces]
    assert names[0] == ["dog"] and names[2] == ["[UNK]"]
    assert len(names[1]) == 10


def test_a_sentence_has_the_same_word_vectors_alone_and_beside_others(encoder):
    from ordtool.parsing.spans.encoder import load_encoder

    network, vocabulary = load_encoder(encoder, "words")
    network = network.double().eval()
    sentences = [["the", "likes", "dog"], ["she", "sees", "the", "dogs", "near", "dogsss"]]
    ids = vocabulary.encode_words(sentences)
    marks = [np.array([4, 0, 1, 128], dtype=np.uint16), np.array([0, 3, 0, 0, 0, 0, 128], dtype=np.uint16)]
    together = pad_batch(ids, marks, torch.device("cpu"))
    both = network(together.words, together.punctuation, together.lengths)
    for row, (words, between) in enumerate(zip(ids, marks, strict=True)):
        alone = pad_batch([words], [between], torch.device("cpu"))
        [vectors] = network(alone.words, alone.punctuation, alone.lengths)
        np.testing.assert_allclose(both[row, : len(words) + 2].detach(), vectors.detach(), atol=1e-12)
    # What the encoder itself says of "( the l##ike##s , dog .", by hand.
    pieces = ["[CLS]", "(", "the", "likes", ",", "dog", ".", "[SEP]"]
    hand = torch.tensor([[vocabulary._tokenizer.token_to_id(piece) for piece in pieces]])
    states = network.model(input_ids=hand).last_hidden_state[0]
    for place, expected in enumerate([0, 2, 3, 5, 7]):
        np.testing.assert_allclose(both[0, place].detach(), states[expected].detach(), atol=1e-12)


def test_an_encoder_trains_along_and_teaches(treebank, encoder, tmp_path):
    options = TINY | {"epochs": 4, "encoder_learning_rate": 2e-3, "encoder": str(encoder)}
    history = train_spans([treebank], tmp_path / "strong", SpanTrainingConfig(**options), half=True)
    assert history[-1]["agreement"] > 90
    [result] = parse(["she likes the big old dog ."], on_cpu(tmp_path / "strong"))
    assert result.spans == [(0, 7), (1, 6), (2, 6)] and result.penn.startswith("(S (NP (PRP she)) (VP")
    long = next(iter(parse([["she", *["likes", "the", "dog", "near"] * 100]], on_cpu(tmp_path / "strong"))))
    assert long.spans[0] == (0, 401) and len(long.distances) == 401
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{' '.join(tree.tokens)}\n" for tree in read_trees([treebank])))
    few = tmp_path / "few.mrg"
    few.write_text("".join(treebank.read_text().splitlines(keepends=True)[18:40]))
    options = TINY | {"text_tokens": "whitespace", "teacher": str(tmp_path / "strong"), "text": [text]}
    last = train_spans([few], tmp_path / "pupil", SpanTrainingConfig(**options))[-1]
    assert last["step"] > 100
    [taught] = parse(["she likes the big old dog ."], on_cpu(tmp_path / "pupil"))
    assert taught.penn == result.penn
    assert (
        load_parser(tmp_path / "pupil").network.config.labels
        == load_parser(tmp_path / "strong").network.config.labels
    )


@pytest.mark.parametrize("layers", [0, 1])
def test_frozen_layers_stay_as_they_are_and_the_others_learn(treebank, encoder, tmp_path, layers):
    options = TINY | {"epochs": 1, "encoder_learning_rate": 1e-3, "encoder": str(encoder)}
    train_spans([treebank], tmp_path / "strong", SpanTrainingConfig(**options, frozen_layers=layers))
    before = load_file(encoder / "model.safetensors")
    after = load_file(tmp_path / "strong" / "encoder" / "model.safetensors")
    kept = ("embeddings.", *(f"encoder.layer.{k}." for k in range(layers)))
    # A bias of keys has no influence, so it needn't move.
    same = {name for name in after if "key.bias" not in name and torch.equal(after[name], before[name])}
    assert same == {name for name in after if name.startswith(kept) and "key.bias" not in name}


def test_frozen_layers_of_no_encoder_or_too_many_are_refused(treebank, encoder, tmp_path):
    with pytest.raises(UsageError, match="first layers of an `encoder`"):
        SpanTrainingConfig(frozen_layers=1)
    config = SpanTrainingConfig(**TINY | {"encoder": str(encoder)}, frozen_layers=9)
    with pytest.raises(OrdtoolError, match="so 9 can't be kept"):
        train_spans([treebank], tmp_path / "strong", config)


def test_packed_weights_are_integers_times_the_scale_of_their_row(trained, tmp_path):
    folder, _ = trained
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = load_file(tmp_path / "model.safetensors")
    whole = stored.pop("tag.weight")
    scale = (whole.abs().max(1, keepdim=True).values / 127).half()
    integers = (whole / scale.float()).round().clamp(-127, 127)
    packed = {**stored, "tag.weight": integers.to(torch.int8), "tag.weight.scale": scale}
    save_file(packed, tmp_path / "model.safetensors")
    network = load_parser(tmp_path).network
    torch.testing.assert_close(network.tag.weight.detach(), integers * scale.float())
    torch.testing.assert_close(network.widen.weight.detach(), stored["widen.weight"])
