"""The packaged tiny language model: what its card says of the folder, and that it is one of English."""

import json

import pytest
import torch
from safetensors import safe_open

from ordtool.generation.config import Decoding
from ordtool.generation.engine import TextGenerator
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.entries import catalogue, model_folder
from ordtool.models.resolve import resolve_model

FOLDER = model_folder(catalogue()["tinylm"])


@pytest.fixture(scope="module")
def writer():
    return TextGenerator(FOLDER, device="cpu")


def loss(writer, text):
    """Nats a token."""
    ids = torch.tensor([writer.codec.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return float(writer.backend.model(input_ids=ids, labels=ids).loss)


def test_the_folder():
    assert resolve_model("tinylm", kind="causal") == FOLDER
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert (config["model_type"], config["max_position_embeddings"]) == ("llama", 256)
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}
    card = (FOLDER / "README.md").read_text()
    for word in ("license: cc-by-sa-4.0", "Sherlock Holmes", "public domain", "CC BY-SA 4.0", "perplexity"):
        assert word in card


def test_every_text_comes_back(writer):
    for text in ("It was late.", "  two  spaces\n\n", "naïve 中文 \t🙂\n", "<unk> & <eos?>"):
        ids = writer.codec.tokenizer(text)["input_ids"]
        assert writer.codec.tokenizer.decode(ids) == text


def test_english_is_likelier_than_its_words_in_another_order(writer):
    text = "He looked at me for a moment, and then he said that he did not know what to do."
    words = text.split()
    assert loss(writer, text) < 5.5
    assert loss(writer, " ".join(words[::-1])) > loss(writer, text) + 1
    assert loss(writer, text.replace("that", "of the")) > loss(writer, text)


def test_it_writes_words(writer):
    (result,) = writer.run(
        [next(_prompts(writer, ["He said that he was"]))], Decoding(max_new_tokens=20), style=PromptStyle()
    )
    assert result.text[0].isspace()
    assert all(word.strip(".,;:'\"!?-").isalpha() for word in result.text.split()[:5])


def _prompts(writer, texts):
    from ordtool.generation.engine import Prompt

    for number, text in enumerate(texts):
        record = Record("x", number + 1, text)
        yield Prompt(number, record, writer.encode(record, PromptStyle()))
