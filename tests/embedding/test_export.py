"""The exported folder gives the same vectors: by its own arithmetic, by ordtool embed and by sentence-transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from ordtool.embedding.encoder import EncoderConfig, encode
from ordtool.embedding.export import export_sentence_transformers
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.whitening import Whitening
from ordtool.errors import OrdtoolError, UsageError

WORDS = "a the cat dog bird man sat ran sang saw ate on in under mat house tree red big old".split()
HIDDEN = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random BERT as a plain Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).eval().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that must not travel")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code that must not travel')\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    return folder


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(300)]


def embed(folder, texts, **options):
    return encode(load_encoder(EncoderConfig(str(folder), dtype="float32", **options)), texts)


OPTIONS = [
    {"shrinkage": 0.1},
    {"dims": 5, "normalize": True},
    {"method": "zca", "shrinkage": 0.1, "beta": 0.5, "gamma": 0.5},
    {"method": "abtt", "normalize": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_embed_gives_whitened_vectors(tmp_path, model, texts, options):
    vectors = embed(model, texts)
    whitening = Whitening(**options).fit(vectors)
    export_sentence_transformers(whitening, tmp_path / "e", model)
    np.testing.assert_allclose(embed(tmp_path / "e", texts), whitening.transform(vectors), atol=2e-5)


@pytest.mark.filterwarnings("ignore")  # of the libraries below it
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sentence_transformers_gives_whitened_vectors(tmp_path, model, texts, options):
    library = pytest.importorskip("sentence_transformers")
    vectors = embed(model, texts)
    whitening = Whitening(**options).fit(vectors)
    export_sentence_transformers(whitening, tmp_path / "e", model)
    loaded = library.SentenceTransformer(str(tmp_path / "e"), device="cpu")
    theirs = loaded.encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(theirs, whitening.transform(vectors), atol=2e-5)
    assert loaded.max_seq_length == 32


def test_a_sentence_transformers_folder_keeps_its_modules(tmp_path, model, texts):
    """The first export, which has modules.json, serves as the model of the second."""
    first = Whitening(dims=8, normalize=True).fit(embed(model, texts))
    export_sentence_transformers(first, tmp_path / "one", model)
    vectors = embed(tmp_path / "one", texts)
    second = Whitening(dims=3).fit(vectors)
    export_sentence_transformers(second, tmp_path / "two", tmp_path / "one")
    modules = json.loads((tmp_path / "two" / "modules.json").read_text())
    kinds = [module["type"].rsplit(".", 1)[1] for module in modules]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize", "Dense"]
    assert [module["idx"] for module in modules] == list(range(5))
    np.testing.assert_allclose(embed(tmp_path / "two", texts), second.transform(vectors), atol=2e-5)


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "last"])
def test_the_pooling_can_be_another(tmp_path, model, texts, pooling):
    export_sentence_transformers(
        Whitening(dims=8, normalize=True).fit(embed(model, texts)), tmp_path / "one", model
    )
    vectors = embed(model, texts, pooling=pooling)
    # The [CLS] of random weights hardly varies: scaled up, float32's rounding would be all there is to compare.
    whitening = Whitening(dims=8, gamma=0).fit(vectors)
    export_sentence_transformers(whitening, tmp_path / "two", tmp_path / "one", pooling=pooling)
    folders = sorted(path.name for path in (tmp_path / "two").iterdir() if path.is_dir())
    assert folders == ["1_Pooling", "2_Dense"]
    np.testing.assert_allclose(embed(tmp_path / "two", texts), whitening.transform(vectors), atol=2e-5)


def test_the_dense_layer_is_the_map(tmp_path, model, texts):
    vectors = embed(model, texts)
    whitening = Whitening(beta=0.7, dims=4).fit(vectors)
    export_sentence_transformers(whitening, tmp_path / "e", model)
    tensors = load_file(tmp_path / "e" / "2_Dense" / "model.safetensors")
    expected = vectors @ tensors["linear.weight"].T + tensors["linear.bias"]
    np.testing.assert_allclose(expected, whitening.transform(vectors), atol=1e-5)


def test_no_pickle_travels_and_the_card_says_what_was_added(tmp_path, model, texts):
    export_sentence_transformers(Whitening(dims=4).fit(embed(model, texts)), tmp_path / "e", model)
    assert not list((tmp_path / "e").rglob("*.bin")) and not list((tmp_path / "e").rglob("*.py"))
    card = (tmp_path / "e" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# Tiny")
    assert "`Whitening(dims=4)`, 24 to 4 columns" in card
    assert (model / "README.md").read_text().endswith("# Tiny\n")


def test_what_cannot_be_exported(tmp_path, model, texts):
    narrow = Whitening().fit(np.random.default_rng(0).standard_normal((50, 7)))
    with pytest.raises(OrdtoolError, match=f"vectors of {HIDDEN} numbers, and the transform takes 7"):
        export_sentence_transformers(narrow, tmp_path / "e", model)
    with pytest.raises(UsageError, match="unknown pooling 'mena'"):
        export_sentence_transformers(narrow, tmp_path / "e", model, pooling="mena")
    static = tmp_path / "static"
    static.mkdir()
    (static / "config.json").write_text('{"model_type": "model2vec"}')
    with pytest.raises(OrdtoolError, match="no transformer that sentence-transformers loads"):
        export_sentence_transformers(narrow, tmp_path / "e", static)
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "config.json").write_text(f'{{"hidden_size": {HIDDEN}}}')
    (custom / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "their_code.Transformer"}]'
    )
    with pytest.raises(OrdtoolError, match="a module of its own"):
        export_sentence_transformers(narrow, tmp_path / "e", custom)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("path", ["../../precious", "/precious", "", 7])
def test_a_module_outside_the_folder_is_refused_and_nothing_is_deleted(tmp_path, model, texts, path):
    export_sentence_transformers(Whitening(dims=3).fit(embed(model, texts)), tmp_path / "e", model)
    precious = tmp_path / "precious"
    precious.mkdir()
    path = str(precious) if path == "/precious" else path
    modules = json.loads((tmp_path / "e" / "modules.json").read_text())
    modules[1]["path"] = path
    (tmp_path / "e" / "modules.json").write_text(json.dumps(modules))
    whitening = Whitening(dims=3).fit(embed(model, texts))
    if path == "":
        export_sentence_transformers(whitening, tmp_path / "again", tmp_path / "e", pooling="mean")
        assert (tmp_path / "again" / "config.json").is_file()
    else:
        with pytest.raises(OrdtoolError, match="leaves the folder"):
            export_sentence_transformers(whitening, tmp_path / "again", tmp_path / "e", pooling="mean")
        with pytest.raises(OrdtoolError, match="leaves the folder"):
            load_encoder(EncoderConfig(str(tmp_path / "e")))
    assert precious.is_dir()
