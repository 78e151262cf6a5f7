"""Build the packaged static encoder: `python benchmarks/build_static.py [-o ordtool/models/packaged/static]`.

The recipe is model2vec's (Tulkens & van Dongen 2024, github.com/MinishLab/model2vec):

1. every token of minilm's vocabulary goes through minilm by itself, and its hidden states are averaged;
2. the token vectors are whitened and reduced by ordtool's own Whitening;
3. each is weighted by smooth inverse frequency, a / (a + p) (Arora, Liang & Ma 2017), p counted in open text;
4. int8 with one float16 scale a token.

Needs ORDTOOL_DATA (text/ and books/ for the frequencies, sts/ for the card's figures). Two minutes on two cores.
The same command gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from ordtool.embedding.embed_job import embed
from ordtool.embedding.encoder import EncoderConfig, encode
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.pairs import read_pairs
from ordtool.embedding.similarity import correlations, cosine_similarities
from ordtool.embedding.tokenizing import Tokens
from ordtool.embedding.whitening import Whitening
from ordtool.io.atomic import atomic_directory
from ordtool.models.entries import PACKAGED
from ordtool.models.resolve import resolve_model

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
DIMS, GAMMA, SIF = 240, 0.5, 1e-3
CARD = """---
license: apache-2.0
language: en
base_model: sentence-transformers/all-MiniLM-L6-v2
library_name: model2vec
tags: [sentence-similarity, static-embeddings]
---

# static

English token vectors distilled from all-MiniLM-L6-v2: a text's vector is the weighted mean of its tokens' vectors,
so no network is run. `ordtool embed -m static` needs no download, no torch and no GPU.

| | |
|---|---|
| vectors | {rows:,} tokens x {dims} dimensions, int8 with a float16 scale a token |
| size | {size:.1f} MB |
| STS-B English dev, Spearman | {dev:.2f} (all-MiniLM-L6-v2 itself: {teacher:.2f}) |
| STS-B English dev, Pearson | {dev_pearson:.2f} |
| STS-B English train, Spearman | {train:.2f} |
| speed | {speed:,.0f} texts/s ({words:.0f} words a text, {machine}) |
| licence | Apache-2.0, as the weights of all-MiniLM-L6-v2 |

`ordtool score similarity` prints the first figure. Gamma and a were tuned on the train and dev pairs, so the figures
are slightly kind; nothing was trained on them.

## Recipe

model2vec's (Tulkens & van Dongen 2024, <https://github.com/MinishLab/model2vec>), with ordtool's whitening:

1. Every token of the vocabulary (without `[unused]` ones) goes through all-MiniLM-L6-v2 as `[CLS] token [SEP]`;
   the last hidden states are averaged.
2. Whitening with beta = 1, gamma = {gamma}, reduced to {dims} dimensions (Su 2022).
3. Smooth inverse frequency: a / (a + p) with a = {sif} (Arora, Liang & Ma 2017); p counted over 4.3 million tokens of
   open text: MASC, UD English EWT (CC BY-SA), WikiText-2 (CC BY-SA), US presidents' addresses and seven books
   (public domain). Only counts of tokens were taken from them.
4. int8, one scale a token.

Built by `benchmarks/build_static.py`. The folder has model2vec's layout: `model2vec.StaticModel.from_pretrained` and
`SentenceTransformer` load it too.

## Limits

English, no word order: "dog bites man" and "man bites dog" are the same. A text of tokens it doesn't know (other
scripts), or an empty one, is a row of zeros.
"""


def main() -> None:
    """Build, write and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=PACKAGED / "static")
    args = parser.parse_args()
    vocabulary, kept = read_vocabulary()
    counts = token_counts(len(vocabulary))[kept]
    vectors = token_vectors(kept)
    whitening = Whitening(dims=DIMS, gamma=GAMMA).fit(vectors)
    share = (counts + 1) / (counts + 1).sum()
    table = whitening.transform(vectors) * (SIF / (SIF + share))[:, None]
    with atomic_directory(args.output, force=True) as folder:
        write_folder(folder, [vocabulary[index] for index in kept], table)
        (folder / "README.md").write_text(card(folder, len(kept)), encoding="utf-8")
    print((args.output / "README.md").read_text(encoding="utf-8"))


def read_vocabulary() -> tuple[dict[int, str], np.ndarray]:
    """Give the tokens by id, and the ids that are words or pieces of words."""
    data = json.loads((resolve_model("minilm") / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {index: token for token, index in data["model"]["vocab"].items()}
    special = {i for i, t in vocabulary.items() if len(t) > 2 and t.startswith("[") and t.endswith("]")}
    return vocabulary, np.array(sorted(vocabulary.keys() - special))


def token_counts(size: int) -> np.ndarray:
    """Count tokens in the open texts."""
    tokenizer = Tokenizer.from_file(str(resolve_model("minilm") / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts = np.zeros(size, dtype=np.int64)
    for file in sorted([*DATA.glob("text/*.txt"), *DATA.glob("books/*.txt")]):
        lines = file.read_text(encoding="utf-8").split("\n")
        for encoding in tokenizer.encode_batch_fast(lines, add_special_tokens=False):
            np.add.at(counts, encoding.ids, 1)
    if not counts.any():
        raise SystemExit(f"no texts in {DATA / 'text'}: set ORDTOOL_DATA")
    return counts


def token_vectors(kept: np.ndarray) -> np.ndarray:
    """Put every token through minilm by itself."""
    config = EncoderConfig(model="minilm", dtype="float32", pooling="mean", normalize=False)
    encoder = load_encoder(config)
    start, end = encoder.tokenize([""]).ids[0]
    return encoder.run(Tokens([[start, int(index), end] for index in kept])).rows


def write_folder(folder: Path, tokens: list[str], table: np.ndarray) -> None:
    """Write the table, the tokenizer over the kept tokens, and the configurations."""
    data = json.loads((resolve_model("minilm") / "tokenizer.json").read_text(encoding="utf-8"))
    special = ["[PAD]", "[UNK]"]
    data["model"]["vocab"] = {token: index for index, token in enumerate([*special, *tokens])}
    data["truncation"] = data["padding"] = None
    data["post_processor"] = None
    data["added_tokens"] = [
        {**token, "id": special.index(token["content"])}
        for token in data["added_tokens"]
        if token["content"] in special
    ]
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    table = np.concatenate([np.zeros((len(special), table.shape[1])), table])
    scale = (np.abs(table).max(axis=1) / 127).astype(np.float16)
    scale[: len(special)] = 1
    quanta = np.rint(table / scale.astype(np.float64)[:, None]).clip(-127, 127).astype(np.int8)
    save_file({"embeddings": quanta, "weights": scale}, folder / "model.safetensors")
    config = {
        "model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": table.shape[1],
        "tokenizer_name": "sentence-transformers/all-MiniLM-L6-v2", "apply_pca": table.shape[1],
        "sif_coefficient": SIF, "normalize": True, "embedding_dtype": "int8",
    }  # fmt: skip
    write_json(folder / "config.json", config)
    modules = [
        ("", "sentence_transformers.models.StaticEmbedding"),
        ("1_Normalize", "sentence_transformers.models.Normalize"),
    ]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    (folder / "1_Normalize").mkdir()
    write_json(folder / "1_Normalize" / "config.json", {})


def write_json(path: Path, value: object) -> None:
    """Write JSON as a person would."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def card(folder: Path, rows: int) -> str:
    """Measure the folder and fill its card."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    (dev, dev_pearson), (train, _) = agreement(str(folder), "dev"), agreement(str(folder), "train")
    teacher, _ = agreement("minilm", "dev", dtype="float32")
    speed, words = texts_a_second(str(folder))
    return CARD.format(
        rows=rows, dims=DIMS, gamma=GAMMA, sif=SIF, size=size / 1e6 + 0.003, dev=dev, dev_pearson=dev_pearson,
        train=train, teacher=teacher, speed=round(speed, -3), words=words,
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
    )  # fmt: skip


def agreement(model: str, part: str, **options: str) -> tuple[float, float]:
    """Spearman and Pearson on STS-B English, percent."""
    pairs = list(read_pairs(DATA / "sts" / f"stsb-en-{part}.csv"))
    left = embed([pair.left for pair in pairs], model, **options)
    right = embed([pair.right for pair in pairs], model, **options)
    gold = np.array([pair.score for pair in pairs])
    spearman, pearson = correlations(cosine_similarities(left, right), gold)
    return spearman or 0.0, pearson or 0.0


def texts_a_second(model: str) -> tuple[float, float]:
    """Encode the sentences of EWT five times; the best run, and the words a text."""
    lines = [line for line in (DATA / "text/ewt.txt").read_text(encoding="utf-8").split("\n") if line]
    encoder = load_encoder(EncoderConfig(model=model))
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        encode(encoder, lines)
        rates.append(len(lines) / (time.perf_counter() - start))
    return max(rates), sum(len(line.split()) for line in lines) / len(lines)


if __name__ == "__main__":
    main()
