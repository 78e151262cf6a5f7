"""Labels of words and answers in contexts: what is read, learnt, measured and predicted."""

import json
import math
import re
import string
from collections import Counter

import numpy as np
import pytest
import torch

import ordtool
from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.own import register
from ordtool.prediction.token_classifiers import load_token_ladder
from ordtool.tuning.comparison import compare_tuning
from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig
from ordtool.tuning.data import default_fields
from ordtool.tuning.dataset import read_data
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.metrics import label_loss
from ordtool.tuning.questions import (
    AnswerFinder,
    Question,
    answer_f1,
    best_span,
    encode_questions,
    exact_match,
    read_questions,
)
from ordtool.tuning.training import train_ladder
from ordtool.tuning.words import TaggedSentence, cut_sentences, joined, read_tagged, split_words

KINDS = {**dict.fromkeys("cat dog bird".split(), "beast"), **dict.fromkeys("sat ran saw".split(), "deed")}
CONLLU = """# text = the cat, then
1\tthe\tthe\tDET\tDT\t_\t2\tdet\t_\t_
2\tcat\tcat\tNOUN\tNN\t_\t0\troot\t_\tSpaceAfter=No
3\t,\t,\tPUNCT\t,\t_\t2\tpunct\t_\t_
4\tthen\tthen\tADV\tRB\t_\t2\tadvmod\t_\t_

"""


@pytest.fixture
def plain(encoders):
    return load_backbone(str(encoders("plain-bert")))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sentences(count, seed=0, words=(2, 7)):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = rng.choice("the a cat dog bird sat ran saw river old".split(), rng.integers(*words)).tolist()
        found.append({"tokens": tokens, "labels": [KINDS.get(token, "other") for token in tokens]})
    return found


def questions(count, seed=0, filler=6):
    """The one beast of a context is the answer."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = rng.choice("the a river tree old small under".split(), filler).tolist()
        place = int(rng.integers(filler + 1))
        words.insert(place, str(rng.choice(["cat", "dog", "bird"])))
        start = sum(len(word) + 1 for word in words[:place])
        found.append(
            {"question": "the cat", "context": " ".join(words), "answer": words[place], "start": start}
        )
    return found


@pytest.fixture
def settings(tmp_path):
    def make(**options):
        # The tiny backbone's layers are too wild to be pruned into good first ones.
        usual = {"initialisation": "random", "reduction": 1, "learning_rate": 0.03, "batch_size": 8}
        return {**usual, "epochs": 7, "cache_dir": str(tmp_path / "c"), **options}

    return make


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_words_are_read_at_their_tokens(plain, pooling):
    tokenizer = plain.tokenizer
    text, offsets = joined(["the", "unseen", "cat", "cats", "then", "xyz"] * 4)
    found = cut_sentences(tokenizer, [TaggedSentence("", text, offsets)] * 2, 20, pooling)
    assert {len(piece.ids) for piece in found} <= set(range(21)) and len(found) > 2
    for number in (0, 1):
        words = []
        for piece in (p for p in found if p.sentence == number):
            assert piece.first == len(words)
            tokens = tokenizer.convert_ids_to_tokens(piece.ids)
            starts = [k for k, token in enumerate(tokens) if token[0] != "[" and not token.startswith("##")]
            stops = [*(k - 1 for k in starts[1:]), len(tokens) - 2]
            assert piece.places.tolist() == (stops if pooling == "last" else starts)
            words += [
                "".join(tokens[a : b + 1]).replace("##", "") for a, b in zip(starts, stops, strict=True)
            ]
        assert " ".join(words) == text


def test_tokens_with_a_space_in_them_and_tokens_of_two_words(writers):
    tokenizer = load_backbone(str(writers("gpt2")), writes=True).tokenizer
    text = 'the cat said "no."'
    offsets = tuple(found.span() for found in re.finditer(r'[a-z]+|"|\.', text))
    (piece,) = cut_sentences(tokenizer, [TaggedSentence("", text, offsets)], 50, "cls")
    encoded = tokenizer(text, return_offsets_mapping=True)
    for (start, stop), place in zip(offsets, piece.places, strict=True):
        a, b = encoded["offset_mapping"][place]
        assert a <= start < b or start <= a < stop


def test_the_losses_against_a_loop():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 5, 3)))
    targets = torch.tensor([[0, -100, 2, 1, -100], [-100, 1, -100, -100, -100]])
    losses = [
        -float(row.log_softmax(-1)[t])
        for row, t in zip(logits.flatten(0, 1), targets.flatten(), strict=True)
        if t >= 0
    ]
    assert float(label_loss(logits, targets, "tokens")) == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    spans = torch.tensor([[0, -100, 1, 0, 2], [3, -100, 0, -100, -100]])
    total = 0.0
    for row, allowed, (first, last) in zip(logits, ([0, 2, 3, 4], [0, 2]), ((2, 4), (0, 0)), strict=True):
        for end, place in enumerate((first, last)):
            total += math.log(sum(math.exp(row[k, end]) for k in allowed)) - float(row[place, end])
    assert float(label_loss(logits[..., :2], spans, "span")) == pytest.approx(total / 4, rel=1e-6)


@pytest.mark.parametrize("longest", [1, 2, 9])
def test_the_best_span_against_all_spans(longest):
    rng = np.random.default_rng(longest)
    for _ in range(20):
        logits, inside = rng.normal(size=(7, 2)) * 3, rng.random(7) < 0.7
        inside[0], inside[3] = False, True
        shares = np.exp(logits) * (inside | (np.arange(7) == 0))[:, None]
        shares = shares / shares.sum(axis=0)
        places = np.flatnonzero(inside).tolist()
        spans = {
            (a, b): shares[a, 0] * shares[b, 1]
            for i, a in enumerate(places)
            for j, b in enumerate(places)
            if i <= j < i + longest
        }
        share, first, last, none = best_span(logits, inside, longest)
        assert share == pytest.approx(max(spans.values())) and spans[first, last] == pytest.approx(share)
        assert none == pytest.approx(shares[0, 0] * shares[0, 1])


def test_answers_are_compared_as_squad_does():
    def words(text):  # the published script's steps
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).split()

    pairs = [
        ("The Eiffel Tower.", "Eiffel tower"),
        ("a tower of Paris", "the Eiffel Tower"),
        ("x", "y"),
        ("", "y"),
    ]
    for guess, answer in pairs:
        shared = sum((Counter(words(guess)) & Counter(words(answer))).values())
        f1 = 2 * shared / (len(words(guess)) + len(words(answer)))
        assert answer_f1(guess, [answer]) == pytest.approx(f1)
        assert exact_match(guess, [answer]) == (words(guess) == words(answer))
    assert answer_f1("Tower", ["Eiffel Tower", "tower"]) == exact_match("Tower", ["no", "tower"]) == 1
    assert answer_f1("北京大学", ["北京，"]) == pytest.approx(2 * 2 / 6)  # characters, as CMRC counts
    assert exact_match("", []) == answer_f1("", []) == 1 and exact_match("x", []) == answer_f1("x", []) == 0


def test_windows_hold_the_answer_or_point_at_the_first_token(plain):
    asked = [
        Question("", "the cat", **{k: r[k] for k in ("context", "start")}, answers=(r["answer"],))
        for r in questions(3, 0, 40)
    ]
    data = encode_questions(plain.tokenizer, [*asked, Question("", "it", "the cat")], 24)
    seen = {number: set() for number in range(4)}
    for window, number in enumerate(data.windows.of):
        targets, places = data.token_targets[window], data.windows.places[window]
        first, last = ([k for k, t in enumerate(targets) if t > 0 and t & bit][0] for bit in (1, 2))
        seen[number] |= {place for a, b in places for place in range(a, b)}
        text = ([*asked, None][number]).context if number < 3 else "the cat"
        a, b = places[first][0], places[last][1]
        assert (text[a:b] == asked[number].answers[0]) if first else (a, b) == (0, 0)
        assert len(targets) == len(data.ids[window]) <= 24
    for number, question in enumerate(asked):
        assert len(seen[number]) == len(question.context.replace(" ", ""))
    # Where the scores are sure, the answers come back, whatever the windows.
    finder = AnswerFinder(data.windows, 3, unanswerable=True)
    longest = max(map(len, data.ids))
    for window, targets in enumerate(data.token_targets):
        scores = np.zeros((1, longest, 2))
        scores[0, : len(targets)] = 20 * np.stack(
            [(targets > 0) & (targets & 1 > 0), (targets > 0) & (targets & 2 > 0)], 1
        )
        finder.add([window], scores)
    assert [finder.spans()[n][:2] for n in range(3)] == [question.span for question in asked]
    assert finder.texts() == [*(question.answers[0] for question in asked), ""]


def test_words_are_learnt_measured_and_predicted(plain, settings, tmp_path, run_in_process, encoders):
    data = write_rows(tmp_path / "a.jsonl", sentences(80))
    home = encoders("plain-bert")
    first = train_ladder(data, tmp_path / "tagger", model=home, task="tokens", **settings())
    few = settings(epochs=1, learning_rate=1e-3)
    cached, live = (
        train_ladder(data, None, model=home, task="tokens", cache=cache, **few) for cache in (True, False)
    )
    assert cached.history.epochs[0]["loss"] == pytest.approx(live.history.epochs[0]["loss"], abs=0.01)
    assert first.history.best.name == "accuracy" and first.history.best.value > 90
    test = sentences(20, 1, (1, 60))  # some are longer than the model's 40 tokens
    write_rows(tmp_path / "b.jsonl", test)
    done = run_in_process("predict", "b.jsonl", "-m", "tagger", "-o", "o.jsonl", "--metrics", "m.json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    pairs = [p for row in rows for p in zip(row["labels"], row["prediction"], strict=True)]
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["words"] == len(pairs) == sum(len(row["tokens"]) for row in test)
    assert found["accuracy"] == pytest.approx(100 * np.mean([a == b for a, b in pairs]), abs=1e-4)
    assert f"on {len(pairs)} words" in done.stderr
    # The same from text, from Python, and by transformers' class.
    text = "the cat sat"
    piped = run_in_process("predict", "-m", "tagger", stdin=f"{text}\n\n".encode())
    row, empty = map(json.loads, piped.stdout.splitlines())
    assert row["text"] == text and empty == {"text": "", "tokens": [], "prediction": [], "probabilities": []}
    one = ordtool.predict(text, str(tmp_path / "tagger"))
    listed = ordtool.predict([["the", "cat", "sat"]], str(tmp_path / "tagger"))[0]
    assert row["tokens"] == text.split() and row["prediction"] == list(one.labels) == list(listed.labels)
    register("ordtool_ladder")
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "tagger")
    with torch.no_grad():
        logits = model(**plain.tokenizer(text, return_tensors="pt")).logits[0, 1:4]
    assert [model.config.id2label[int(k)] for k in logits.argmax(-1)] == row["prediction"]
    assert logits.softmax(-1).amax(-1).tolist() == pytest.approx(row["probabilities"], abs=1e-5)


def test_a_treebank_is_read_as_it_stands(plain, settings, tmp_path, run_in_process):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU * 12)
    fields = default_fields("tokens")
    (sentence, *_) = read_tagged(path, fields)
    assert sentence.words == ("the", "cat", ",", "then") and sentence.labels == (
        "DET",
        "NOUN",
        "PUNCT",
        "ADV",
    )
    assert read_tagged(path, type(fields)("tokens", None, "xpos"))[0].labels == ("DT", "NN", ",", "RB")
    train_ladder(path, tmp_path / "t", model=plain.folder, task="tokens", holdout=0.3, **settings(epochs=2))
    done = run_in_process("predict", "a.conllu", "-m", "t", "-o", "o.csv")
    assert done.returncode == 0 and "on 48 words" in done.stderr and "replaced" not in done.stderr
    assert (tmp_path / "o.csv").read_text().splitlines()[0] == "labels,tokens,prediction,probabilities"


def test_answers_are_learnt_measured_and_predicted(settings, tmp_path, run_in_process, encoders):
    train = write_rows(tmp_path / "a.jsonl", questions(100))
    home = encoders("plain-bert")
    options = settings(epochs=5, max_length=40, task="span", learning_rate=0.01)
    found = train_ladder(train, tmp_path / "reader", model=home, **options)
    assert found.history.best.name == "f1" and found.history.best.value > 80
    test = questions(12, 1, 60)  # more than one window
    write_rows(tmp_path / "b.jsonl", test)
    done = run_in_process("predict", "b.jsonl", "-m", "reader", "-o", "o.jsonl", "--metrics", "m.json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert all(row["context"][slice(*row["span"])] == row["prediction"] for row in rows)
    right = np.mean([row["prediction"] == wanted["answer"] for row, wanted in zip(rows, test, strict=True)])
    assert json.loads((tmp_path / "m.json").read_text())["exact_match"] == pytest.approx(
        100 * right, abs=1e-4
    )
    assert right > 0.3 and "exact match" in done.stderr
    one = ordtool.predict("the cat", str(tmp_path / "reader"), test[0]["context"])
    assert (one.label, list(one.span)) == (rows[0]["prediction"], rows[0]["span"])
    assert one.probability == pytest.approx(rows[0]["probability"], abs=1e-5)


def test_a_resumed_training_ends_with_the_same_weights(encoders, settings, tmp_path):
    data = write_rows(tmp_path / "a.jsonl", sentences(30))
    home, options = encoders("plain-bert"), settings(epochs=3)
    whole = train_ladder(data, tmp_path / "whole", model=home, task="tokens", **options)

    class Stop(Exception):
        pass

    class Progress(ordtool.progress.Progress):
        def note(self, message):
            if "epoch 2" in message:
                raise Stop

    with pytest.raises(Stop):
        train_ladder(data, tmp_path / "part", model=home, task="tokens", progress=Progress(), **options)
    resumed = train_ladder(data, tmp_path / "part", model=home, task="tokens", resume=True, **options)
    for a, b in zip(whole.ladder.trained_parameters(), resumed.ladder.trained_parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("task", ["tokens", "span"])
def test_other_methods_and_fisher(task, plain, tmp_path):
    rows = sentences(12) if task == "tokens" else questions(12)
    data = write_rows(tmp_path / "a.jsonl", rows)
    config = LadderTrainingConfig(
        task=task,
        reduction=2,
        initialisation="fisher",
        cache_dir=str(tmp_path),
        max_length=40,
        holdout=0.2,
        schedule=ScheduleConfig(epochs=1),
    )
    read = read_data([data], [], config, plain, [data])
    methods = ("full", "head")
    found, _ = compare_tuning(plain, read, config, ComparisonConfig(methods, runs=1, epochs=1))
    assert [row.method for row in found] == ["ladder", "ladder, no cache", *methods]
    for row in found:
        assert row.metric == ("accuracy" if task == "tokens" else "f1")
        assert all(0 <= score <= 100 for score in row.scores)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_backbones_of_other_kinds(name, writers, tmp_path, settings):
    data = write_rows(tmp_path / "a.jsonl", sentences(16))
    asked = write_rows(tmp_path / "q.jsonl", questions(16))
    for task, path in (("tokens", data), ("span", asked)):
        options = settings(epochs=1, max_length=48)
        train_ladder(path, tmp_path / task, model=writers(name), task=task, holdout=0.3, **options)
        loaded = load_token_ladder(tmp_path / task, None, torch.device("cpu"))
        assert loaded.fields == default_fields(task)


def test_what_is_wrong_is_named_with_its_line(tmp_path, plain, encoders):
    fields = default_fields("tokens")
    for row, message in (
        ({"tokens": ["a", "b"], "labels": ["X"]}, "2 words have 1 labels"),
        ({"tokens": "a b", "labels": ["X"]}, "must be a list of words"),
        ({"tokens": ["a b"], "labels": ["X"]}, "must be a list of words"),
        ({"tokens": ["a"]}, "have no labels"),
        ({"tokens": ["a"], "labels": "X"}, "must be a list"),
    ):
        path = write_rows(tmp_path / "a.jsonl", [{"tokens": ["a"], "labels": ["X"]}, row])
        with pytest.raises(OrdtoolError, match=f"a.jsonl:2: .*{message}"):
            read_tagged(path, fields)
    fields = default_fields("span")
    good = {"question": "q", "context": "the cat the", "answer": "cat", "start": 4}
    for change, message in (
        ({"answer": "dog"}, "isn't in its context"),
        ({"start": 3}, "isn't in its context at 3"),
        ({"start": "x"}, "no number"),
        ({"answer": 3}, "must be a string"),
        ({"question": ""}, "must be a string with text"),
    ):
        path = write_rows(tmp_path / "a.jsonl", [good, good | change])
        with pytest.raises(OrdtoolError, match=f"a.jsonl:2: .*{message}"):
            read_questions(path, fields)
    path = write_rows(tmp_path / "a.jsonl", [good | {"answer": None}, good | {"answer": ["cat", "the"]}])
    assert [q.answers for q in read_questions(path, fields)] == [(), ("cat", "the")]
    with pytest.raises(UsageError, match="pooling"):
        LadderTrainingConfig(task="tokens", pooling="mean")
    with pytest.raises(UsageError, match="at least 16"):
        LadderTrainingConfig(task="span", max_length=8)
    dev = write_rows(tmp_path / "d.jsonl", [{"tokens": ["a"], "labels": ["new"]}])
    data = write_rows(tmp_path / "a.jsonl", sentences(8))
    with pytest.raises(OrdtoolError, match="'new' is not one of the training data's"):
        read_data([data], [dev], LadderTrainingConfig(task="tokens"), plain)


def test_texts_without_words_are_cut_at_signs():
    text = "It's 3.5 o'clock, isn’t it? (Yes)"
    assert [text[a:b] for a, b in split_words(text)] == (
        ["It's", "3.5", "o'clock", ",", "isn’t", "it", "?", "(", "Yes", ")"]
    )


@pytest.mark.parametrize("span", [False, True])
def test_checkpoints_of_transformers(span, encoders, tmp_path, plain):
    import shutil

    import transformers

    home = tmp_path / "m"
    shutil.copytree(encoders("plain-bert"), home)
    config = transformers.BertConfig.from_pretrained(home, num_labels=2 if span else 3)
    kind = transformers.BertForQuestionAnswering if span else transformers.BertForTokenClassification
    model = kind(config).eval()
    model.save_pretrained(home)
    if span:
        found = ordtool.predict("the cat", str(home), "a river ran")
        assert found.label == "a river ran"[slice(*found.span)]
    else:
        found = ordtool.predict("the cat sat", str(home))
        with torch.no_grad():
            logits = model(**plain.tokenizer("the cat sat", return_tensors="pt")).logits[0, 1:4]
        assert list(found.labels) == [f"LABEL_{k}" for k in logits.argmax(-1)]
