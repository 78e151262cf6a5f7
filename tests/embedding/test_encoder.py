"""Vectors against transformers run on one text at a time."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from ordtool.embedding.batching import make_batches
from ordtool.embedding.embed_job import embed
from ordtool.embedding.encoder import EncoderConfig, encode
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.packed import PackedEncoder
from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.entries import PACKAGED

TEXTS = [
    "the cat sat on the mat",
    "a dog ran",
    "the old river sang and then it was not small",
    "",
    "a dog ran",
    "the",
    "red bird near the tree under the old tree near a river",
    "unknownword zzz",
]


def config(folder, **options) -> EncoderConfig:
    return EncoderConfig(model=str(folder), **{"dtype": "float32", "threads": 2, **options})


def states_of(folder, text: str) -> torch.Tensor:
    """All hidden states of one text alone, `(layers, tokens, hidden)`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt")
        out = model(input_ids=inputs.input_ids, output_hidden_states=True)
    return torch.stack(out.hidden_states)[:, 0]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_batched_is_single(encoders, kind):
    folder = encoders(kind)
    rows = encode(load_encoder(config(folder, batch_tokens=17)), TEXTS)
    for row, text in zip(rows, TEXTS, strict=True):
        np.testing.assert_allclose(row, states_of(folder, text)[-1].mean(0), rtol=1e-4, atol=1e-5)


def test_causal_models_leave_their_first_token_out(writers):
    folder = writers("llama")
    encoder = load_encoder(config(folder, batch_tokens=40))
    assert any("attention sink" in note for note in encoder.notes)
    rows = encode(encoder, TEXTS)
    for row, text in zip(rows, TEXTS, strict=True):
        if text:
            states = states_of(folder, text)[-1]
            expected = states[1:].mean(0) if len(states) > 1 else states[0]
            np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-4)
    # This tokenizer puts nothing around a text, so an empty one has no token.
    np.testing.assert_array_equal(rows[TEXTS.index("")], 0)


def test_an_encoder_decoder_gives_its_encoder(writers):
    rows = encode(load_encoder(config(writers("t5"))), TEXTS[:3])
    assert rows.shape == (3, 24)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_layers_are_hidden_states(encoders, kind):
    folder = encoders(kind)
    together = encode(load_encoder(config(folder, layers="1,-1")), TEXTS)
    apart = encode(load_encoder(config(folder, layers="all")), TEXTS)
    first_last = encode(load_encoder(config(folder, pooling="first-last")), TEXTS)
    np.testing.assert_allclose(together, apart[:, [1, -1]].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together, first_last)
    states = states_of(folder, TEXTS[0])
    assert apart.shape == (len(TEXTS), len(states), 24)
    np.testing.assert_allclose(apart[0], states.mean(1), rtol=1e-4, atol=1e-5)


def test_early_layers_run_no_further(encoders):
    encoder = load_encoder(config(encoders("bert"), layers="0"))
    encoder._states._layers = []
    assert encode(encoder, TEXTS[:2]).shape == (2, 24)


def test_pooler_is_the_models_own(encoders):
    folder = encoders("bert")
    model = AutoModel.from_pretrained(folder).eval()
    rows = encode(load_encoder(config(folder, pooling="pooler")), TEXTS[:3])
    with torch.no_grad():
        for row, text in zip(rows, TEXTS, strict=False):
            expected = model.pooler(states_of(folder, text)[-1:])[0]
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_near(encoders):
    folder = encoders("bert")
    exact = encode(load_encoder(config(folder)), TEXTS)
    near = encode(load_encoder(config(folder, dtype="bfloat16")), TEXTS)
    cosines = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert cosines.min() > 0.999


def test_threads_do_not_change_the_bytes(encoders):
    folder = encoders("bert")
    one = encode(load_encoder(config(folder, threads=1, batch_tokens=20)), TEXTS)
    two = encode(load_encoder(config(folder, threads=2, batch_tokens=20)), TEXTS)
    np.testing.assert_array_equal(one, two)


def test_the_packed_pass_is_taken_only_where_it_agrees(encoders, tmp_path):
    folder = encoders("bert")
    assert load_encoder(config(folder))._packed
    assert not load_encoder(config(encoders("distilbert")))._packed


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_attention_to_all_texts_at_once_is_that_by_length(encoders, kind):
    model = AutoModel.from_pretrained(encoders(kind)).eval()
    draw = np.random.default_rng(0)
    tokens = [draw.integers(3, 30, length).tolist() for length in (1, 13, 4, 4, 9, 2)]
    batch = make_batches(tokens, 1000)[0]
    with torch.inference_mode():
        for layers in ((0, 1, 2), (2,)):
            whole, by_length = (
                PackedEncoder(model, torch.float32, torch.device("cpu"), pads_attention=pads)
                for pads in (True, False)
            )
            pairs = zip(
                whole.hidden_states(batch, layers), by_length.hidden_states(batch, layers), strict=True
            )
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_long_texts_are_cut_and_counted(encoders):
    encoder = load_encoder(config(encoders("bert")))
    long = " ".join(["river"] * 60)
    done = encoder.run(encoder.tokenize([long, "the cat"]))
    assert (encoder.max_length, done.truncated, done.tokens) == (40, 1, 40 + 4)
    np.testing.assert_allclose(
        done.rows[0], encode(encoder, [" ".join(["river"] * 38)])[0], rtol=1e-5, atol=1e-6
    )
    shorter = load_encoder(config(encoders("bert"), max_length=10))
    assert shorter.run(shorter.tokenize([long])).tokens == 10


def test_limits_that_the_model_does_not_have(encoders):
    with pytest.raises(UsageError, match="more than the 40 tokens"):
        load_encoder(config(encoders("bert"), max_length=41))


# ---------------------------------------------------------------------- sentence-transformers folders


def with_modules(folder, target, *, pooling="cls", dense=True, normalize=True, prompts=None, **settings):
    """A sentence-transformers folder over a tiny encoder."""
    import shutil

    shutil.copytree(folder, target)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [("2_Dense", "Dense")] * dense + [("3_Normalize", "Normalize")] * normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (target / "modules.json").write_text(json.dumps(modules))
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, **settings}))
    flags = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling/config.json").write_text(
        json.dumps(
            {"word_embedding_dimension": 24, **{f"pooling_mode_{f}": p == pooling for p, f in flags.items()}}
        )
    )
    if dense:
        (target / "2_Dense").mkdir()
        generator = torch.Generator().manual_seed(5)
        weights = {
            "linear.weight": torch.randn(6, 24, generator=generator),
            "linear.bias": torch.randn(6, generator=generator),
        }
        save_file(weights, target / "2_Dense/model.safetensors")
        (target / "2_Dense/config.json").write_text(
            json.dumps({"in_features": 24, "out_features": 6, "bias": True,
                        "activation_function": "torch.nn.modules.activation.Tanh"})
        )  # fmt: skip
    if prompts:
        (target / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return target


def test_the_folders_own_modules_are_followed(encoders, tmp_path):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    encoder = load_encoder(config(folder))
    assert (encoder.dim, encoder.max_length, encoder.normalized) == (6, 12, True)
    from safetensors.torch import load_file

    dense = load_file(folder / "2_Dense/model.safetensors")
    for row, text in zip(encode(encoder, TEXTS[:3]), TEXTS, strict=False):
        first = states_of(folder, text)[-1, 0]
        expected = torch.tanh(dense["linear.weight"] @ first + dense["linear.bias"])
        np.testing.assert_allclose(row, expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_the_folder_agrees_with_sentence_transformers(encoders, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder = with_modules(
        encoders("bert"), tmp_path / "st", pooling="mean",
        prompts={"prompts": {"query": "the cat "}, "default_prompt_name": "query"},
    )  # fmt: skip
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encode(load_encoder(config(folder)), TEXTS), theirs, rtol=1e-4, atol=1e-5)


def test_a_choice_of_ones_own_leaves_the_modules_out(encoders, tmp_path):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    encoder = load_encoder(config(folder, pooling="mean"))
    assert (encoder.dim, encoder.normalized) == (24, False)
    assert any("left out" in note for note in encoder.notes)
    np.testing.assert_allclose(
        encode(encoder, TEXTS[:1])[0], states_of(folder, TEXTS[0])[-1].mean(0), rtol=1e-4, atol=1e-5
    )


def test_normalize_can_be_chosen(encoders, tmp_path):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    loose = encode(load_encoder(config(folder, normalize=False)), TEXTS[:3])
    tight = encode(load_encoder(config(encoders("bert"), normalize=True)), TEXTS[:3])
    assert not np.allclose(np.linalg.norm(loose, axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(tight, axis=1), 1, rtol=1e-5)


def test_prompts_by_name_by_text_and_by_default(encoders, tmp_path):
    prompts = {"prompts": {"query": "the cat ", "other": "red "}, "default_prompt_name": "query"}
    folder = with_modules(encoders("bert"), tmp_path / "st", prompts=prompts)
    plain = encode(load_encoder(config(folder, prompt="")), ["the cat ran", "red ran"])
    np.testing.assert_allclose(encode(load_encoder(config(folder)), ["ran"])[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(
        encode(load_encoder(config(folder, prompt="other")), ["ran"])[0], plain[1], atol=1e-6
    )
    np.testing.assert_allclose(
        encode(load_encoder(config(folder, prompt="red ")), ["ran"])[0], plain[1], atol=1e-6
    )


def test_a_lone_word_is_a_prompts_name_or_an_error(encoders, tmp_path):
    """It was put before each text, without a space: 'queryThe cat'."""
    prompts = {"prompts": {"query": "the cat ", "none": ""}, "default_prompt_name": "query"}
    folder = with_modules(encoders("bert"), tmp_path / "st", prompts=prompts)
    with pytest.raises(UsageError, match="has no prompt named 'qery'") as caught:
        load_encoder(config(folder, prompt="qery"))
    assert (
        caught.value.hint == "its prompts: none, query; a text to put first has a space or a colon: 'qery: '"
    )
    plain = encode(load_encoder(config(folder, prompt="")), ["ran"])
    np.testing.assert_array_equal(encode(load_encoder(config(folder, prompt="none")), ["ran"]), plain)
    for model in (encoders("bert"), "static"):
        with pytest.raises(UsageError, match="has no prompts, and so none named 'query'"):
            load_encoder(config(model, prompt="query"))
        for text in ("query:", "query: ", "the cat ", "寻找这个句子：", "为了检索，"):
            assert load_encoder(config(model, prompt=text)).dim


def test_prompts_may_be_left_out_of_the_pooling(encoders, tmp_path):
    folder = with_modules(
        encoders("bert"), tmp_path / "st", pooling="mean", dense=False, normalize=False,
        prompts={"prompts": {"query": "the cat "}, "default_prompt_name": "query"},
    )  # fmt: skip
    pooling = folder / "1_Pooling/config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "include_prompt": False}))
    row = encode(load_encoder(config(folder)), ["ran"])[0]
    expected = states_of(folder, "the cat ran")[-1, 3:].mean(0)  # [CLS] the cat are left out
    np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_unknown_modules_are_named(encoders, tmp_path):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "my_package.MyModule"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(OrdtoolError, match="module 'MyModule' is unknown"):
        load_encoder(config(folder))


DAMAGE = {
    "sentence_bert_config.json": [
        {"max_seq_length": "x"},
        {"max_seq_length": -3},
        {"max_seq_length": True},
        [1],
        3,
    ],
    "config_sentence_transformers.json": [
        {"prompts": ["query"]},
        {"prompts": {"query": 3}},
        {"default_prompt_name": ["query"]},
        None,
    ],
    "1_Pooling/config.json": [
        {"pooling_mode": 7},
        {"pooling_mode": [["mean"]]},
        {"pooling_mode": ["meen"]},
        [],
    ],
    "modules.json": [{}, [], [1], [{"type": 3}], [{"path": 3, "type": "Transformer"}], "x"],
    "2_Dense/config.json": [{"activation_function": 3}, []],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [(name, content) for name, contents in DAMAGE.items() for content in contents],
    ids=str,
)
def test_damaged_settings_are_one_line(encoders, tmp_path, name, content):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(OrdtoolError):
        load_encoder(config(folder))


def test_a_dense_module_without_its_weights(encoders, tmp_path):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    save_file({"other": torch.ones(2, 2)}, folder / "2_Dense/model.safetensors")
    with pytest.raises(OrdtoolError, match=r"damaged: no tensor 'linear\.weight'"):
        load_encoder(config(folder))


@pytest.mark.parametrize(
    "tensors",
    [
        {"embeddings": torch.ones(5)},
        {"embeddings": torch.ones(0, 4)},
        {"embeddings": torch.ones(5, 4), "mapping": torch.tensor([9])},
        {"embeddings": torch.ones(5, 4), "mapping": torch.tensor([-1])},
        {"embeddings": torch.ones(5, 4), "mapping": torch.ones(3)},
        {"embeddings": torch.ones(5, 4), "weights": torch.ones(4)},
        {"embeddings": torch.ones(5, 4), "weights": torch.ones(5, 1)},
    ],
)
def test_damaged_tables_of_token_vectors(tmp_path, tensors):
    import shutil

    folder = tmp_path / "static"
    shutil.copytree(PACKAGED / "static", folder)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(OrdtoolError, match="damaged"):
        load_encoder(config(folder))


def test_dense_modules_without_safetensors_are_refused(encoders, tmp_path):
    folder = with_modules(encoders("bert"), tmp_path / "st")
    (folder / "2_Dense/model.safetensors").rename(folder / "2_Dense/pytorch_model.bin")
    with pytest.raises(OrdtoolError, match=r"no model\.safetensors"):
        load_encoder(config(folder))


# ---------------------------------------------------------------------- what is refused


def test_a_classifier_says_that_its_head_is_left_out(encoders):
    encoder = load_encoder(config(encoders("classifier")))
    assert any("is a classifier (BertForSequenceClassification)" in note for note in encoder.notes)


def test_a_pooler_must_have_been_trained(writers):
    with pytest.raises(UsageError, match="no trained pooler"):
        load_encoder(config(writers("llama"), pooling="pooler"))


def test_missing_weights_are_not_made_up(encoders, tmp_path):
    import shutil

    from safetensors.torch import load_file

    folder = tmp_path / "cut"
    shutil.copytree(encoders("bert"), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.2.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OrdtoolError, match="1 weights are missing, encoder.layer.2.output.dense.weight"):
        load_encoder(config(folder))


def test_contradictions(encoders):
    with pytest.raises(UsageError, match="contradict"):
        load_encoder(config(encoders("bert"), pooling="first-last", layers="1"))
    with pytest.raises(UsageError, match="`batch_tokens` 0"):
        load_encoder(config(encoders("bert"), batch_tokens=0))
    with pytest.raises(UsageError, match="last layer"):
        load_encoder(config(encoders("bert"), pooling="pooler", layers="1"))


def test_embed_from_python(encoders):
    rows = embed(iter(TEXTS), model=str(encoders("bert")), dtype="float32")
    assert rows.shape == (len(TEXTS), 24)
    np.testing.assert_array_equal(rows[1], rows[4])
