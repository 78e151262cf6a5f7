"""The one loader: the usable context of every family against its modules, and damaged folders in one line each."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from ordtool.errors import OrdtoolError
from ordtool.models.limits import position_offset, tokenizer_limit, usable_context
from ordtool.models.loading import check_vocabulary, load_config, load_model, load_tokenizer, read_tensors

SMALL = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 11,
}

# ---------------------------------------------------------------- how much a model reads


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (transformers.BertConfig(max_position_embeddings=512), 512),
        (transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=0), 513),
        (transformers.XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (transformers.CamembertConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (transformers.MPNetConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (transformers.GPT2Config(n_positions=1024), 1024),
        (transformers.LlamaConfig(max_position_embeddings=4096, pad_token_id=1), 4096),
        (transformers.BartConfig(max_position_embeddings=1024), 1024),
        (transformers.T5Config(), None),
        (transformers.T5Config(n_positions=512), None),
        (transformers.XLNetConfig(), None),
        (transformers.BloomConfig(), None),
        (transformers.MptConfig(max_seq_len=2048), 2048),
        (transformers.LlavaConfig(text_config={"model_type": "llama", "max_position_embeddings": 300}), 300),
        (transformers.LlamaConfig(max_position_embeddings=10**9), None),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_usable_context(config, context: int | None) -> None:
    assert usable_context(config) == context


FAMILIES = (
    "bert camembert data2vec-text distilbert electra ernie esm ibert longformer luke markuplm megatron-bert mpnet "
    "roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod"
).split()


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_begin_where_the_modules_say(family: str) -> None:
    # The table of a family that counts from its padding has a row for padding itself, which no token takes.
    config = transformers.AutoConfig.for_model(family, **SMALL, pad_token_id=3, max_position_embeddings=20)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    tables = [m for name, m in model.named_modules() if name == "embeddings.position_embeddings"]
    assert len(tables) == 1
    offset = 0 if tables[0].padding_idx is None else tables[0].padding_idx + 1
    assert position_offset(config) == offset
    assert usable_context(config) == 20 - offset


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "gpt2", "longformer"])
def test_as_many_tokens_as_said_are_read_and_no_more(family: str) -> None:
    names = {"n_positions": 20, "n_embd": 8, "n_layer": 1, "n_head": 2} if family == "gpt2" else SMALL
    config = transformers.AutoConfig.for_model(
        family, **{**names, "vocab_size": 11, "pad_token_id": 1, "max_position_embeddings": 20}
    )
    if family == "longformer":
        config.attention_window = [4]
    model = transformers.AutoModel.from_config(config).eval()
    context = usable_context(config)
    assert context is not None
    with torch.inference_mode():
        ids = torch.full((1, context), 5)
        assert model(ids).last_hidden_state.shape[:2] == (1, context)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, context + 1), 5))


def test_what_a_tokenizer_says_of_its_limit() -> None:
    from tokenizers import Tokenizer, models

    def limit(**options: object) -> int | None:
        tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        return tokenizer_limit(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options))

    assert limit(model_max_length=77) == 77
    assert limit() is None  # transformers writes 10^30


# ---------------------------------------------------------------- damaged folders


@pytest.fixture
def damaged(tmp_path: Path, encoders, writers):
    """Copy an encoder's folder (or a writer's), with changes to a JSON file, or a text in its place."""

    def make(kind: str, name: str, change: object) -> Path:
        source = encoders(kind) if kind in {"bert", "roberta", "classifier", "distilbert"} else writers(kind)
        folder = tmp_path / kind
        shutil.copytree(source, folder)
        file = folder / name
        if isinstance(change, dict):
            file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        elif isinstance(change, int):
            file.write_bytes(file.read_bytes()[:change])
        else:
            file.write_text(str(change))
        return folder

    return make


def open_all(folder: Path, kind: str) -> None:
    head = {"bert": "base", "classifier": "classifier", "t5": "seq2seq"}.get(kind, "causal")
    load_config(folder)
    load_model(folder, head)
    load_tokenizer(folder)


CONFIG = "config.json: damaged"
CASES = [
    ("bert", "config.json", "{", CONFIG),
    ("bert", "config.json", "[]", CONFIG),
    ("bert", "config.json", "[" * 10000, CONFIG),
    ("bert", "config.json", {"hidden_size": "wide"}, CONFIG),
    ("bert", "config.json", {"hidden_size": None}, CONFIG),
    ("bert", "config.json", {"hidden_size": -1}, "bert"),
    ("bert", "config.json", {"hidden_size": 10**12}, "bert"),
    ("bert", "config.json", {"vocab_size": 10**12}, "the sizes in config.json"),
    ("bert", "config.json", {"vocab_size": 10**30}, "bert"),
    ("bert", "config.json", {"max_position_embeddings": 10**12}, "the sizes in config.json"),
    ("bert", "config.json", {"intermediate_size": 10**10}, "the sizes in config.json"),
    ("bert", "config.json", {"num_hidden_layers": 2**31}, "layers, and there are"),
    ("bert", "config.json", {"num_attention_heads": 0}, "bert"),
    ("bert", "config.json", {"num_attention_heads": -1}, CONFIG),
    ("bert", "config.json", {"num_hidden_layers": -1}, CONFIG),
    ("bert", "tokenizer_config.json", "[]", "tokenizer_config.json: damaged"),
    ("bert", "config.json", {"num_attention_heads": 7}, "bert"),
    ("bert", "config.json", {"pad_token_id": 10**6}, "bert"),
    ("bert", "config.json", {"hidden_act": "no such"}, "bert"),
    ("bert", "config.json", {"architectures": 3}, CONFIG),
    ("bert", "config.json", {"id2label": 3}, CONFIG),
    ("bert", "config.json", {"model_type": "no-such-kind"}, "doesn't know"),
    ("bert", "config.json", {"model_type": 7}, "bert"),
    ("bert", "config.json", {"dtype": "no such"}, CONFIG),
    ("llama", "config.json", {"hidden_size": 10**12}, "llama"),
    ("llama", "config.json", {"vocab_size": 10**12}, "the sizes in config.json"),
    ("llama", "config.json", {"head_dim": 10**9}, "the sizes in config.json"),
    ("llama", "config.json", {"rope_parameters": 3}, CONFIG),
    ("llama", "config.json", {"rope_parameters": {"rope_type": "no such"}}, "llama"),
    ("llama", "config.json", {"num_key_value_heads": 0}, "llama"),
    ("bert", "tokenizer.json", "{", "tokenizer.json: damaged"),
    ("bert", "tokenizer.json", "{}", "tokenizer.json: damaged"),
    ("bert", "tokenizer.json", {"model": {"type": "WordPiece", "vocab": 3}}, "tokenizer.json: damaged"),
    ("bert", "tokenizer_config.json", "{", "tokenizer_config.json: damaged"),
    ("bert", "tokenizer_config.json", {"tokenizer_class": 3}, "bert"),
    ("bert", "tokenizer_config.json", {"model_max_length": "many"}, "tokenizer_config.json: damaged"),
    ("bert", "model.safetensors", 1000, "model.safetensors: damaged"),
    ("bert", "model.safetensors", 4, "model.safetensors: damaged"),
    ("bert", "model.safetensors", "no weights", "model.safetensors: damaged"),
]


@pytest.mark.parametrize(
    ("kind", "name", "change", "said"),
    CASES,
    ids=[f"{kind}-{name}-{str(change)[:40]}" for kind, name, change, _ in CASES],
)
def test_a_damaged_folder_is_said_in_one_line(damaged, kind, name, change, said) -> None:
    folder = damaged(kind, name, change)
    with pytest.raises(OrdtoolError) as caught:
        open_all(folder, kind)
    message = caught.value.message
    assert message.startswith(str(folder)) and said in message
    assert "\n" not in message and caught.value.hint


def test_tokens_without_vectors_are_refused(damaged) -> None:
    folder = damaged("bert", "config.json", {})
    model = load_model(folder, "base").model
    check_vocabulary(folder, load_tokenizer(folder), model)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["one-too-many"] = len(tokenizer["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(OrdtoolError, match="the tokenizer has 79 tokens, and the model has vectors for 78"):
        check_vocabulary(folder, load_tokenizer(folder), model)


def test_damaged_tensors_name_their_file(tmp_path: Path) -> None:
    with pytest.raises(OrdtoolError, match="no model.safetensors in it"):
        read_tensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(OrdtoolError, match="model.safetensors: damaged"):
        read_tensors(tmp_path / "model.safetensors", "numpy")


def test_weights_that_a_kind_lacks_are_named(encoders) -> None:
    with pytest.raises(OrdtoolError, match="weights are missing, classifier.bias first"):
        load_model(encoders("bert"), "classifier")
    assert load_model(encoders("bert"), "classifier", may_miss=lambda name: True).missing == [
        "classifier.bias",
        "classifier.weight",
    ]


def test_dtype_and_mode_are_as_asked(encoders) -> None:
    model = load_model(encoders("bert"), "base", dtype=torch.bfloat16, device=torch.device("cpu")).model
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert load_model(encoders("bert"), "base").model.dtype == torch.float32


@pytest.mark.parametrize("model", ["english", "english-onlstm"])
@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 10**12},
        {"num_hidden_layers": 2**31},
        {"num_attention_heads": 0, "chunk_size": 0},
        {"hidden_size": -1},
    ],
    ids=str,
)
def test_a_parser_with_sizes_that_are_not_its_own_is_refused(model: str, change, tmp_path: Path) -> None:
    from ordtool.models.resolve import resolve_model
    from ordtool.parsing.loading import load_parser

    shutil.copytree(resolve_model(model), tmp_path / model)
    config = json.loads((tmp_path / model / "config.json").read_text())
    (tmp_path / model / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(OrdtoolError, match=f"{model}"):
        load_parser(tmp_path / model)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"num_hidden_layers": 2**31}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"rope_parameters": -1}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("tokenizer_config.json", "[]"),
    ],
    ids=str,
)
def test_the_fast_start_leaves_damage_to_be_said_by_the_loader(name: str, change, tmp_path: Path) -> None:
    from ordtool.generation.engine import TextGenerator
    from ordtool.models.resolve import resolve_model

    folder = tmp_path / "tinylm"
    shutil.copytree(resolve_model("tinylm"), folder)
    text = (
        change
        if isinstance(change, str)
        else json.dumps({**json.loads((folder / name).read_text()), **change})
    )
    (folder / name).write_text(text)
    with pytest.raises(OrdtoolError, match="tinylm"):
        TextGenerator(folder, fast_start=True)
