"""Without transformers the texts, their numbers and the pieces they come in are those with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ordtool.errors import OrdtoolError
from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator
from ordtool.generation.llama.fast_start import FastStartBackend, load_fast_start, read_tokenizer
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.entries import catalogue, model_folder
from ordtool.models.loading import load_tokenizer

CPU = torch.device("cpu")
TEXTS = [
    "the cat",
    "a dog ran under the tree and then",
    "bird",
    "the river was not red and it sang on the old tree near a small cat",
    "tree",
]
HARD = [
    "",
    " ",
    "a  b\n\n c",
    "naïve 日本語 🙂 e\u0301",
    "</s> <eos> <|im_end|> x",
    "1234567 don't",
    "\ufffd\x00",
]


def unused():
    raise AssertionError("transformers was asked for")


@pytest.fixture(scope="module")
def folders(writers):
    def get(name):
        if name not in ("tinylm", "smollm2"):
            return writers(name)
        folder = model_folder(catalogue()[name])
        if not (folder / "config.json").is_file():
            pytest.skip(f"{name} is not here")
        return folder

    return get


@pytest.fixture(scope="module")
def pairs(folders):
    """The same model without and with transformers."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = [
                TextGenerator(folders(name), device="cpu", fast_start=light) for light in (True, False)
            ]
        assert [isinstance(g.backend, FastStartBackend) for g in made[name]] == [True, False]
        return made[name]

    return get


def prompts(generator, style):
    records = [Record("x", number, text) for number, text in enumerate(TEXTS, start=1)]
    return [Prompt(i, record, generator.encode(record, style)) for i, record in enumerate(records)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1},
        {"repetition_penalty": 1.7, "no_repeat_ngram": 2},
        {"temperature": 0.9, "n": 3, "top_k": 50, "top_p": 0.95, "min_p": 0.001, "typical": 0.9},
        {"logprobs": True},
        {"stop": ("e", "an")},
        {"choices": ("cat", "the old tree", "dog")},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "flat", "chat", "tinylm"])
def test_the_same_texts_and_numbers(pairs, name, options):
    decoding = Decoding(**{"max_new_tokens": 20, **options})
    ours, theirs = (g.run(prompts(g, PromptStyle()), decoding) for g in pairs(name))
    assert ours == theirs


@pytest.mark.slow
def test_the_same_texts_of_smollm2(pairs):
    for style in (PromptStyle(), PromptStyle(chat=False)):
        ours, theirs = (g.run(prompts(g, style)[:3], Decoding(max_new_tokens=6)) for g in pairs("smollm2"))
        assert ours == theirs


@pytest.mark.parametrize("stops", [(), ("e ",)])
def test_the_same_pieces(pairs, stops):
    pieces = []
    for generator in pairs("llama"):
        came = []
        decoding = Decoding(max_new_tokens=15, stop=stops)
        list(generator.stream([Record("x", 1, text) for text in TEXTS], decoding, write=came.append))
        pieces.append(came)
    assert pieces[0] == pieces[1] and len(pieces[0]) > 10


def test_beams_are_transformers_own(folders):
    light, whole = (
        TextGenerator(folders("llama"), device="cpu", fast_start=light) for light in (True, False)
    )
    decoding = Decoding(max_new_tokens=6, beams=3, n=2)
    found = [g.run(prompts(g, PromptStyle()), decoding) for g in (light, whole)]
    assert found[0] == found[1]
    assert not isinstance(light.backend, FastStartBackend)


@pytest.mark.parametrize("kind", ["gpt2", "prefix", "permutation", "unilm", "t5", "bart"])
def test_other_kinds_are_left_to_transformers(folders, kind):
    assert load_fast_start(folders(kind), CPU, torch.float32) is None


@pytest.mark.parametrize("name", ["llama", "chat", "tinylm", "smollm2"])
def test_the_same_tokens(folders, name):
    folder = folders(name)
    ours, theirs = read_tokenizer(folder, unused), load_tokenizer(folder)
    assert len(ours) == len(theirs)
    for text in [*HARD, *TEXTS]:
        for special in (True, False):
            ids = ours(text, add_special_tokens=special)["input_ids"]
            assert ids == theirs(text, add_special_tokens=special)["input_ids"]
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    for token in ("eos", "pad", "bos"):
        assert ours.id_of(f"{token}_token") == getattr(theirs, f"{token}_token_id")


CHAT = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "  hé\n"},
    {"role": "assistant", "content": "x"},
]


@pytest.mark.parametrize("name", ["chat", "smollm2"])
def test_the_same_chat(folders, name):
    folder = folders(name)
    ours, theirs = read_tokenizer(folder, unused), load_tokenizer(folder)
    for chat in (CHAT, CHAT[1:2]):
        for more in (True, False):
            options = {"tokenize": False, "add_generation_prompt": more}
            assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options)


@pytest.mark.parametrize(
    "template",
    [
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}",
        "{{ messages | tojson }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{{ range(3) | list }}{{ messages | length }}",
        "{% if tools is not none %}tools{% endif %}{{ bos_token }}{{ messages[-1]['content'] | trim }}\n",
    ],
)
def test_templates_that_ask_for_more_are_transformers_matter(folders, tmp_path, template):
    folder = Path(shutil.copytree(folders("chat"), tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template)
    ours, theirs = read_tokenizer(folder, lambda: load_tokenizer(folder)), load_tokenizer(folder)
    options = {"tokenize": False, "add_generation_prompt": True}
    assert ours.apply_chat_template(CHAT, **options) == theirs.apply_chat_template(CHAT, **options)


def test_a_template_that_refuses(folders, tmp_path):
    folder = Path(shutil.copytree(folders("chat"), tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}")
    generator = TextGenerator(folder, device="cpu", fast_start=True)
    with pytest.raises(OrdtoolError, match="no system here"):
        generator.encode(Record("x", 1, "hello"), PromptStyle(chat=True))


@pytest.mark.parametrize(
    "file, change",
    [
        ("config.json", {"eos_token_id": [2, 9]}),
        ("config.json", {"pad_token_id": None}),
        ("generation_config.json", {"eos_token_id": [5, 2]}),
        ("generation_config.json", {"eos_token_id": None}),
        ("generation_config.json", None),
        ("tokenizer_config.json", {"pad_token": None}),
    ],
    ids=str,
)
def test_the_same_ends(folders, tmp_path, file, change):
    folder = Path(shutil.copytree(folders("llama"), tmp_path / "model"))
    edit(folder / file, change)
    light, whole = (TextGenerator(folder, device="cpu", fast_start=light) for light in (True, False))
    assert isinstance(light.backend, FastStartBackend)
    assert (light.backend.stops, light.backend.pad) == (whole.backend.stops, whole.backend.pad)
    assert light.context == whole.context


def edit(file, change):
    if change is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.parametrize(
    "file, change",
    [
        ("generation_config.json", {"suppress_tokens": [4]}),
        ("generation_config.json", {"forced_bos_token_id": 4}),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}),
        ("tokenizer_config.json", {"add_bos_token": True}),
        ("tokenizer_config.json", {"eos_token": "<new>"}),
        ("tokenizer_config.json", None),
        ("tokenizer.json", {"truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}}),
        ("tokenizer.json", {"model": {}}),
        ("config.json", {"max_position_embeddings": "many"}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_known_is_left_alone(folders, tmp_path, file, change):
    folder = Path(shutil.copytree(folders("llama"), tmp_path / "model"))
    assert load_fast_start(folder, CPU, torch.float32) is not None
    edit(folder / file, change)
    assert load_fast_start(folder, CPU, torch.float32) is None
