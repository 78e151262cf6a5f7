"""Options, templates and stop strings, without a model."""

from itertools import accumulate, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError, UsageError
from ordtool.generation.batch_plan import STEP_COST, partition
from ordtool.generation.codec import begins_a_spaced_word
from ordtool.generation.config import Decoding
from ordtool.generation.prompts import PromptStyle, Template, parse_choices, read_examples, unescape
from ordtool.generation.stopping import find_stop, held_back, tokens_until
from ordtool.io.text import Record


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "top_p": 0.9},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": 1e-45},
        {"length_penalty": float("nan"), "beams": 2},
        {"length_penalty": float("inf"), "beams": 2},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"typical": 1},
        {"beams": 4, "temperature": 0.5},
        {"beams": 2, "n": 3},
        {"n": 2},
        {"n": 0},
        {"n": 10**6, "temperature": 1},
        {"beams": 10**6},
        {"length_penalty": 2},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0},
        {"no_repeat_ngram": -1},
        {"stop": ("",)},
        {"choices": ("a",)},
        {"choices": ("a", "a")},
        {"choices": ("a", "b"), "beams": 2},
        {"choices": ("a", "b"), "temperature": 1.0},
        {"choices": ("a", "b"), "stop": ("x",)},
    ],
    ids=str,
)
def test_contradictions_are_usage_errors_with_a_hint(options):
    with pytest.raises(UsageError) as caught:
        Decoding(**options)
    assert caught.value.hint


def test_temperature_0_is_greedy():
    assert not Decoding(temperature=0).sampling
    assert Decoding(top_k=3).sampling


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_held_back_is_the_longest_possible_beginning(text, stops):
    expected = max((size for s in stops for size in range(len(s)) if text.endswith(s[:size])), default=0)
    assert held_back(text, stops) == expected


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_find_stop_is_the_first_of_all(text, stops):
    places = [i for i in range(len(text)) if any(text.startswith(stop, i) for stop in stops)]
    assert find_stop(text, stops) == (places[0] if places else None)


def test_tokens_until():
    pieces = ["ab", "", "cde", "f"]
    assert [tokens_until(range(4), n, lambda ids: "".join(pieces[i] for i in ids)) for n in range(7)] == [
        0, 1, 1, 3, 3, 3, 4,
    ]  # fmt: skip


def test_template():
    template = Template("{{x}} {a}, {b}.")
    assert template.fields == ["a", "b"]
    assert template.render({"a": 1, "b": "two", "c": None}, "f:1") == "{x} 1, two."
    assert template.head({"a": 1}, "f:1") == "{x} 1,"
    assert template.tail == "."


@pytest.mark.parametrize("text", ["no field", "{", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "{}", "{0}"])
def test_templates_with_anything_but_plain_names_are_refused(text):
    with pytest.raises(UsageError):
        Template(text)


@pytest.mark.parametrize("value", [None, ["x"], {"y": 1}])
def test_wrong_types_in_a_template(value):
    with pytest.raises(OrdtoolError, match="f:3: field 'a' must be a string or a number"):
        Template("{a}").render({"a": value}, "f:3")


def test_few_shot_prompts_of_several_lines_are_separated_by_a_blank_line():
    style = PromptStyle(Template("Q: {q}\nA: {a}"), ({"q": "1", "a": "2"},))
    record = Record("f", 1, "3", {"q": "3"})
    assert style.text(record) == "Q: 1\nA: 2\n\nQ: 3\nA:"
    assert style.stop == ("\n\n",)


def test_styles_that_contradict():
    with pytest.raises(UsageError):
        PromptStyle(examples=({"a": 1},))
    with pytest.raises(UsageError):
        PromptStyle(Template("{a}"), ({"a": 1},))
    with pytest.raises(UsageError):
        PromptStyle(chat=False, system="x")
    with pytest.raises(OrdtoolError, match="example 1"):
        PromptStyle(Template("{a} {b}"), ({"a": 1},))
    with pytest.raises(UsageError):
        PromptStyle(chat=True).uses_chat(False)


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_empty_prompts(text):
    with pytest.raises(OrdtoolError, match="f:1: empty prompt"):
        PromptStyle().text(Record("f", 1, text))


def test_unescape():
    assert unescape(r"a\nb\t\\n") == "a\nb\t\\n"


def test_choices():
    assert parse_choices("yes, no") == ("yes", "no")
    assert parse_choices('["yes, please", "no"]') == ("yes, please", "no")
    for bad in ("[1, 2]", "[oops", "[]"):
        with pytest.raises(UsageError):
            parse_choices(bad)


@pytest.mark.parametrize("text", ["été", "Äpfel", "щука", "λόγος", "여름", "صيف", "गर्मी", "3", "٣", "x"])
def test_words_of_spaced_scripts_have_a_space_before_them(text):
    assert begins_a_spaced_word(text)


@pytest.mark.parametrize(
    "text", ["夏天", "なつ", "ナツ", "ﾅﾂ", "ฤดูร้อน", "លើ", "ໃບ", "နွေ", "དབྱར", "Ａ", " x", "-3", "«été»", "…"]
)
def test_other_scripts_and_signs_have_none(text):
    assert not begins_a_spaced_word(text)


def test_examples_file(tmp_path):
    file = tmp_path / "shots.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_examples(file) == ({"a": 1}, {"a": 2})
    table = file.with_suffix(".csv")
    table.write_text("word,plural\ndog,dogs\n")
    assert read_examples(table) == ({"word": "dog", "plural": "dogs"},)
    file.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(OrdtoolError, match="shots.jsonl:2: expected a JSON object"):
        read_examples(file)
    file.write_text("")
    with pytest.raises(OrdtoolError, match="no examples"):
        read_examples(file)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(1, 5), st.integers(1, 9))
def test_batches_are_the_cheapest_of_all_cuts(lengths, size, steps):
    lengths.sort(reverse=True)

    def cost(sizes):
        ends = list(accumulate(sizes))
        return sum(n * lengths[end - n] + STEP_COST * steps for n, end in zip(sizes, ends, strict=True))

    everything = []
    for cuts in product([False, True], repeat=len(lengths) - 1):
        sizes = [1]
        for cut in cuts:
            sizes = [*sizes, 1] if cut else [*sizes[:-1], sizes[-1] + 1]
        if max(sizes) <= size:
            everything.append(cost(sizes))
    found = partition(lengths, size, steps)
    assert sum(found) == len(lengths)
    assert max(found) <= size
    assert cost(found) == min(everything)
