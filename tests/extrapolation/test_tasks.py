"""Tasks in long texts: what the texts are made of, and that what counts as found is found."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ordtool
from ordtool.cli._extrapolation_view import heat_maps
from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.chart import draw_heat_map
from ordtool.extrapolation.comparison import ExtrapolateConfig
from ordtool.extrapolation.evaluation import Grid, score_last
from ordtool.extrapolation.task_evaluation import evaluate_task, score_choices
from ordtool.extrapolation.tasks import CHOICES, TASKS, Example, TaskSettings, TaskTexts
from ordtool.extrapolation.texts import Text
from ordtool.models.loading import load_model, load_tokenizer
from ordtool.models.resolve import resolve_model

FOLDER = resolve_model("tinylm")
TOKENIZER = load_tokenizer(FOLDER)
STORY = Text("story", (Path(__file__).parents[2] / "examples" / "story.txt").read_text())


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def texts(name: str, given=(), **settings) -> TaskTexts:
    return TaskTexts(TaskSettings(name, **settings), given, encode)


class Memory(nn.Module):
    """No network: says what came after the longest earlier run of tokens that is like the end of the text.

    It sees the last `window` tokens alone, so that it finds all that stands there and nothing else.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window, self.weight = window, nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=len(TOKENIZER)))

    def forward(self, input_ids, use_cache=False):
        ids = input_ids[0]
        size = len(ids)
        logits = torch.zeros(1, size, len(TOKENIZER))
        run = torch.zeros(
            size, dtype=torch.long
        )  # of each place: how far the tokens before it are those at the end
        for end in range(1, size + 1):
            same = ids[: end - 1] == ids[end - 1]
            run[1:end] = torch.where(same, run[: end - 1] + 1, 0)
            first = max(0, end - self.window)
            seen = torch.minimum(run[first + 1 : end], torch.arange(1, end - first))
            if len(seen) and int(seen.max()):
                last = int((seen == seen.max()).nonzero()[-1])
                logits[0, end - 1, ids[first + 1 + last]] = 10.0
        return SimpleNamespace(logits=logits)


def found(model: nn.Module, made: TaskTexts, length: int, count: int = 4) -> list[float]:
    grid = Grid(("none",), (length,), length)
    (rows,) = evaluate_task(model, made, grid, count)
    return [row.accuracy for row in rows]


@pytest.mark.parametrize("name", ["passkey", "niah", "kv", "copy"])
def test_what_stands_in_the_last_tokens_is_found_and_what_does_not_is_not(name):
    # The answer ends before the question, which is 13 to 24 tokens, within the last 100.
    made = texts(name, depths=(0.0, 1.0))
    missed, near = found(Memory(100), made, 300)
    assert near == 1.0 and missed < 0.5
    assert found(Memory(300), made, 300)[0] == 1.0


@pytest.mark.parametrize("name", TASKS)
def test_a_shuffled_answer_is_found_by_chance(name):
    made, draw = texts(name), random.Random(0)
    right = 0
    for number in range(12):
        example = made.example(200, 1.0, number)
        shuffled = draw.sample(example.choices, len(example.choices))
        sums, _ = score_choices(Memory(200), Example(example.prompt, shuffled))
        right += sums[0] > max(sums[1:])
    assert right <= 5  # of 12 at one in ten: more come once in 1,800 runs


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("examples", [0, 2])
def test_texts_have_the_length_and_all_answers_differ(name, examples):
    made = texts(name, [STORY], examples=examples, needles=2)
    for length, depth in ((400, 0.0), (401, 0.5), (900, 1.0)):
        example = made.example(length, depth, 3)
        assert len(example.prompt) + max(map(len, example.choices)) == length
        assert len({tuple(choice) for choice in example.choices}) == CHOICES
        assert made.example(length, depth, 3) == example != made.example(length, depth, 4)


def test_facts_stand_at_their_depth():
    made = texts("passkey", [STORY])
    for depth in (0.0, 0.3, 0.5, 1.0):
        text = TOKENIZER.decode(made.example(900, depth, 0).prompt)
        before, question = text.index("The pass key is"), text.index("What is the pass key?")
        assert before / question == pytest.approx(depth, abs=0.05)
        assert text.count("The pass key is") == 2 and text.endswith("The pass key is")
    keys = [TOKENIZER.decode(texts("kv").example(900, depth, 0).prompt) for depth in (0.0, 0.5, 1.0)]
    places = [text.index(text.splitlines()[-1]) / len(text) for text in keys]
    assert places == pytest.approx([0.0, 0.5, 1.0], abs=0.05)


def test_needles_values_and_chains():
    text = TOKENIZER.decode(texts("niah", needles=4, values=3).example(500, 0.0, 0).prompt)
    facts = [line for line in text.splitlines() if line.startswith("The special number for")]
    asked = text.rsplit(" for ", 1)[1].removesuffix(" are")
    assert len(facts) == 6 and sum(f" {asked} is " in line for line in facts) == 3
    example = texts("vt", needles=2).example(500, 0.0, 0)
    text, answer = TOKENIZER.decode(example.prompt), TOKENIZER.decode(example.choices[0]).split()
    value = text.splitlines()[-1].split()[0]
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("VAR"):
            name, given = line.removeprefix("VAR ").rstrip(".").split(" = ")
            values[name] = values.get(given.removeprefix("VAR "), given)
    near = texts("vt").example(400, 1.0, 0)
    names = TOKENIZER.decode(near.choices[0]).split()
    assert all(f"VAR {name} = " in TOKENIZER.decode(near.prompt[-100:]) for name in names)
    assert sorted(name for name in values if values[name] == value) == sorted(answer) and len(values) == 9


def test_answers_are_scored_as_reading_every_text_to_its_end_scores_them():
    model = load_model(FOLDER, "causal").model
    example = texts("niah", [STORY], values=2).example(200, 0.5, 0)
    sums, exact = score_choices(model, example)
    for choice, total in zip(example.choices, sums, strict=True):
        losses, hits = score_last(model, torch.tensor([[*example.prompt, *choice]]), len(choice))
        assert total == pytest.approx(-float(losses.double().sum()), abs=1e-4)
        if choice is example.choices[0]:
            assert exact == bool(hits.all())


def test_two_runs_agree_and_an_interrupted_one_goes_on():
    options = {"task": "kv", "methods": ("none", "rerope"), "lengths": ("0.5x", "1x"), "windows": 1}
    rows = ordtool.extrapolate([], depths=(0.0, 1.0), **options)
    assert rows == ordtool.extrapolate([], depths=(0.0, 1.0), **options)
    assert [(row.method, row.length, row.depth) for row in rows[:4]] == [
        ("none", 128, 0.0), ("none", 128, 1.0), ("rerope", 128, 0.0), ("rerope", 128, 1.0),
    ]  # fmt: skip
    model = load_model(FOLDER, "causal").model
    grid = Grid(("none", "rerope"), (128, 256), 256)
    rest = list(evaluate_task(model, texts("kv", depths=(0.0, 1.0)), grid, 1, start=2))
    assert [row for cell in rest for row in cell] == rows[4:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "passkeys"}, "unknown task 'passkeys'"),
        ({"task": "kv", "depths": (1.5,)}, "`depths` are shares of the text"),
        ({"task": "vt", "needles": 9}, "`needles` 9 is not possible"),
        ({"task": "kv", "bins": 3}, "`bins` is for losses"),
        ({"task": "kv", "score": "best"}, "unknown `score` 'best'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ExtrapolateConfig(**options)


def test_too_little_room_and_too_little_text_are_told_of():
    with pytest.raises(UsageError, match="20 tokens are too few for passkey"):
        texts("passkey").example(20, 0.0, 0)
    with pytest.raises(OrdtoolError, match="too short to copy from"):
        texts("copy", [Text("a", "one line\nand another")]).example(200, 0.0, 0)


def test_a_heat_map_shows_every_share_once():
    rows = [
        {"method": "none", "depth": depth, "length": length, "accuracy": share, "exact": 0.0}
        for depth, length, share in ((0.0, 256, 0.0), (0.0, 512, 0.25), (1.0, 256, 1.0))
    ]
    drawn = draw_heat_map(heat_maps(json.loads(json.dumps(rows)), "choice")["none"], title="none")
    assert [line.split() for line in drawn] == [
        ["none"], ["depth", "256", "512"], ["0%", "0", "::", "25"], ["100%", "@@", "100", "-"],
    ]  # fmt: skip
