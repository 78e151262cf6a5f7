"""BERT and its tokenizer without transformers, against transformers; and what is left to transformers."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ordtool.models.bert import read_bert
from ordtool.models.wordpiece import read_wordpiece

TEXTS = [
    "the cat sat on the mat",
    "A DOG, a dög \u4e2d\u6587 [SEP] x",
    "",
    "zzz ?!\u00a0\u200b old",
    "river " * 30,
]


@pytest.fixture
def folder(encoders):
    return encoders("plain-bert")


def test_states_are_those_of_transformers(folder):
    ours = read_bert(folder)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    ids = torch.randint(0, ours.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1]])).long()
    types = (torch.arange(9) > 3).long().expand(3, -1)
    with torch.inference_mode():
        for options in ({}, {"attention_mask": mask}, {"attention_mask": mask, "token_type_ids": types}):
            found = ours(ids, output_hidden_states=True, **options)
            expected = theirs(ids, output_hidden_states=True, **options)
            for a, b in zip(found.hidden_states, expected.hidden_states, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(ours.pooler(found[0]), expected.pooler_output, rtol=1e-6, atol=1e-6)


def test_ids_are_those_of_transformers(folder):
    ours, theirs = read_wordpiece(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.model_max_length == theirs.model_max_length == 40
    for name in ("unk", "sep", "pad", "cls", "bos", "eos"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    for pairs in (None, TEXTS[::-1]):
        for options in ({}, {"truncation": "longest_first", "max_length": 9}):
            found, expected = ours(TEXTS, pairs, **options), theirs(TEXTS, pairs, **options)
            assert found["input_ids"] == expected["input_ids"]
            assert found["token_type_ids"] == expected["token_type_ids"]


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "silu"},
        {"model_type": "roberta"},
        {"architectures": ["BertForMaskedLM"]},
        {"position_embedding_type": "relative_key"},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 2},
        {"intermediate_size": 41},
        {"num_attention_heads": 5},
        {"hidden_size": "24"},
        {"a_new_key": 1},
    ],
)
def test_an_unusual_configuration_is_left_to_transformers(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | change))
    assert read_bert(tmp_path / "m") is None


def test_unusual_weights_are_left_to_transformers(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    weights = load_file(file)
    for changed in (
        {name: tensor for name, tensor in weights.items() if name != "encoder.layer.1.output.dense.bias"},
        {**weights, "more": torch.zeros(1)},
        {name: tensor for name, tensor in weights.items() if name != "pooler.dense.bias"},
        {**weights, "embeddings.LayerNorm.bias": torch.zeros(1)},
        {**weights, "embeddings.LayerNorm.bias": torch.zeros(24, dtype=torch.int32)},
    ):
        save_file(changed, file)
        assert read_bert(tmp_path / "m") is None
    file.write_bytes(b"damaged")
    assert read_bert(tmp_path / "m") is None
    half = {name: t.half() for name, t in weights.items() if not name.startswith("pooler")}
    save_file(half, file)
    found = read_bert(tmp_path / "m")
    assert found.dtype == torch.float32 and found.pooler is None


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("tokenizer_config.json", ["do_lower_case"], False),
        ("tokenizer_config.json", ["tokenizer_class"], "RobertaTokenizer"),
        ("tokenizer_config.json", ["additional_special_tokens"], ["[X]"]),
        ("tokenizer_config.json", ["a_new_key"], 1),
        ("tokenizer_config.json", ["sep_token"], "the"),
        ("tokenizer.json", ["model", "max_input_chars_per_word"], 5),
        ("tokenizer.json", ["normalizer", "lowercase"], False),
        ("tokenizer.json", ["pre_tokenizer"], {"type": "Whitespace"}),
        ("tokenizer.json", ["post_processor"], None),
        ("tokenizer.json", ["added_tokens"], []),
        ("tokenizer.json", ["model"], None),
    ],
)
def test_an_unusual_tokenizer_is_left_to_transformers(folder, tmp_path, file, keys, value):
    shutil.copytree(folder, tmp_path / "m")
    whole = json.loads((tmp_path / "m" / file).read_text())
    part = whole
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (tmp_path / "m" / file).write_text(json.dumps(whole))
    assert read_wordpiece(tmp_path / "m") is None
    assert read_wordpiece(folder) is not None
