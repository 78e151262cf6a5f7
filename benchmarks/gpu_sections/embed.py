"""Vectors of texts of 4 to 200 words by a model of MiniLM-L6's shape, beside sentence-transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import ordtool
from gpu_sections.measure import Bench, Row
from ordtool.embedding.encoder import EncoderConfig, encode
from ordtool.embedding.loading import load_encoder
from ordtool.runtime import quiet_libraries

WORDS = Path(ordtool.__file__).parent / "models" / "packaged" / "static" / "tokenizer.json"
DTYPES = ("float32", "bfloat16", "float16")


def rows(bench: Bench) -> Iterator[Row]:
    """Texts a second, tokenising included."""
    quiet_libraries()
    count, theirs, longest = bench.pick((20_000, 4_000, 200), (40, 20, 30))
    with TemporaryDirectory() as name:
        folder = Path(name)
        words = save_model(folder, bench)
        texts = random_texts(words, count, longest)
        for dtype in DTYPES if bench.cuda else DTYPES[:1]:
            speed = speed_of(bench, peer(bench, folder, dtype), texts[:theirs])
            yield Row("embed", "texts of 4 to 200 words", f"sentence-transformers, {dtype}", speed, "texts/s")
            bench.free()
        for dtype in DTYPES if bench.cuda else DTYPES[:1]:
            encoder = load_encoder(EncoderConfig(str(folder), dtype=dtype, device=str(bench.device)))
            speed = speed_of(bench, lambda some, e=encoder: encode(e, some), texts)
            note = f"{bench.peak_mb():,.0f} MB"
            yield Row("embed", "texts of 4 to 200 words", f"ordtool, {dtype}", speed, "texts/s", note)
            bench.free()
        yield tokenizing(bench, folder, texts)


def save_model(folder: Path, bench: Bench) -> list[str]:
    """A BERT with random weights and a tokenizer with BERT's words; gives pieces of words, `##` before endings."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_file(str(WORDS))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    ).save_pretrained(folder)
    shape = bench.pick(
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
        {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2},
    )
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30_522, num_attention_heads=12, **shape)).save_pretrained(folder)
    return [word for word in tokenizer.get_vocab() if word.removeprefix("##").isalpha() and word.isascii()]


def random_texts(words: list[str], count: int, longest: int) -> list[str]:
    """Texts of 4 to `longest` words, every third of which has an ending of its own."""
    draw = np.random.default_rng(0)
    whole = np.array([word for word in words if not word.startswith("##")])
    endings = np.array([word[2:] for word in words if word.startswith("##")])
    texts = []
    for size in draw.integers(4, longest + 1, count):
        chosen = draw.choice(whole, size)
        chosen = [
            word + ending if number % 3 == 0 else word
            for number, (word, ending) in enumerate(zip(chosen, draw.choice(endings, size), strict=True))
        ]
        texts.append(" ".join(chosen))
    return texts


def peer(bench: Bench, folder: Path, dtype: str) -> Callable[[list[str]], Any]:
    """Load sentence-transformers' encoder."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, dtype)}
    model = SentenceTransformer(
        str(folder), device=str(bench.device), model_kwargs=options, trust_remote_code=False
    )
    return lambda texts: model.encode(texts, show_progress_bar=False)


def speed_of(bench: Bench, run: Callable[[list[str]], Any], texts: list[str]) -> float:
    """Texts a second: the better of two runs, after a short one."""
    run(texts[: max(16, len(texts) // 10)])
    seconds = []
    for _ in range(bench.pick(2, 1)):
        start = time.perf_counter()
        run(texts)
        seconds.append(time.perf_counter() - start)
    return len(texts) / min(seconds)


def tokenizing(bench: Bench, folder: Path, texts: list[str]) -> Row:
    """What the host alone can do: texts to ids."""
    encoder = load_encoder(EncoderConfig(str(folder), device=str(bench.device)))
    start = time.perf_counter()
    tokens = sum(
        len(ids)
        for low in range(0, len(texts), encoder.window_texts)
        for ids in encoder.tokenize(texts[low : low + encoder.window_texts]).ids
    )
    seconds = time.perf_counter() - start
    note = f"{tokens / len(texts):.0f} tokens a text"
    return Row("embed", "texts of 4 to 200 words", "tokenising alone", len(texts) / seconds, "texts/s", note)
