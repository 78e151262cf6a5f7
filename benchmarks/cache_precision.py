"""How far logits with a cache, in a batch and with left padding are from those without, in float32 and float64.

If a difference in float32 is rounding alone, it vanishes in float64, and each of the two is about as far from the
float64 logits as they are from each other. Prints one JSON line a model and dtype.

    python benchmarks/cache_precision.py smollm2 tinylm
"""

import argparse
import json

import torch

from ordtool.generation.loading import load_backend
from ordtool.models.releases import cache_argument, cache_of
from ordtool.models.resolve import resolve_model

TEXTS = [
    "It was a bright cold day in April, and the clocks were",
    "The first of the rivers of Europe that come to mind is the Danube, which rises in the Black Forest and flows",
    "Once",
    "What is to be done? he asked, and nobody in the long, low room by the harbour answered him; only the rain",
]
STEPS = 24


def paths(backend, prompts, written):
    """Give the logits before each written token, computed in four ways: `{name: (prompts, steps, vocabulary)}`."""
    model = backend.model
    found = {}
    with torch.inference_mode():
        rows = [
            model(input_ids=torch.tensor([[*p, *w]]), use_cache=False).logits[0, len(p) - 1 : -1]
            for p, w in zip(prompts, written, strict=True)
        ]
        found["uncached"] = torch.stack(rows)
        found["cached"] = torch.cat(
            [cached(backend, [p], [w]) for p, w in zip(prompts, written, strict=True)]
        )
        found["cached, batch with left padding"] = cached(backend, prompts, written)
        inputs, _, columns = backend.batch([[*p, *w] for p, w in zip(prompts, written, strict=True)])
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = model(**inputs, position_ids=positions, use_cache=False).logits
        found["uncached, batch with left padding"] = logits[:, columns - STEPS - 1 : -1]
    return found


def cached(backend, prompts, written):
    """Feed the prompts, then a token at a time."""
    inputs, _, _ = backend.batch(prompts)
    mask, cache, rows = inputs["attention_mask"], None, []
    ids = inputs["input_ids"]
    for step in range(STEPS):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = backend.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            **cache_argument(cache),
            use_cache=True,
        )
        cache = cache_of(out)
        rows.append(out.logits[:, -1])
        ids = torch.tensor([[w[step]] for w in written])
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.stack(rows, dim=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    for name in args.models:
        folder = resolve_model(name)
        exact = None
        for dtype in (torch.float64, torch.float32):
            backend, tokenizer = load_backend(folder, torch.device("cpu"), dtype)
            prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
            draw = torch.Generator().manual_seed(0)
            written = torch.randint(10, len(tokenizer), (len(prompts), STEPS), generator=draw).tolist()
            found = paths(backend, prompts, written)
            plain = found["uncached"]
            exact = plain if exact is None else exact
            row = {"model": name, "dtype": str(dtype), "largest_logit": float(exact.abs().max())}
            row |= {
                f"{way} - uncached": float((logits - plain).abs().max())
                for way, logits in found.items()
                if way != "uncached"
            }
            row |= {f"{way} - float64": float((logits - exact).abs().max()) for way, logits in found.items()}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
