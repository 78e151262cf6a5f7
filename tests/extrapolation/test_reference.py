"""Every method against a naive one that shares nothing with it.

The reference replaces each attention layer by loops' worth of algebra in float64: for every pair of a query and a
key it takes the distance that the method's formula gives, turns each pair of coordinates by that distance times
its frequency, and sums. Distances, frequencies and visibility are written here from the formulas, a second time.
"""

import functools
import json
import math
import re
import types

import pytest
import torch

from ordtool.extrapolation.patch import context_extension

TRAINED, LENGTH, N = 13, 52, 41
FACTOR = LENGTH / TRAINED
BASE, ROTARY = 97.0, 10


def theta():
    return torch.tensor([BASE ** (-2 * m / ROTARY) for m in range(ROTARY // 2)], dtype=torch.float64)


def ntk(factor):
    base = BASE * factor ** (ROTARY / (ROTARY - 2))
    return torch.tensor([base ** (-2 * m / ROTARY) for m in range(ROTARY // 2)], dtype=torch.float64)


def ntk_fixed():
    beta, lam = BASE ** (2 / ROTARY), FACTOR ** (2 / ROTARY)
    return torch.tensor([beta ** -(m - 1) / lam**m for m in range(1, ROTARY // 2 + 1)], dtype=torch.float64)


def ntk_mixed(b):
    half = ROTARY // 2
    a = math.log(FACTOR) / half**b
    return torch.tensor([BASE ** (-2 * (m - 1) / ROTARY) * math.exp(-a * m**b) for m in range(1, half + 1)])


def yarn(turns):
    """The ramp lies between the dimensions that turn `turns` times and once, rounded outwards."""

    def dimension(r):
        return ROTARY * math.log(TRAINED / (2 * math.pi * r)) / (2 * math.log(BASE))

    low, high = max(math.floor(dimension(turns)), 0), min(math.ceil(dimension(1)), ROTARY - 1)
    frequencies = []
    for m, value in enumerate(theta().tolist()):
        slow = min(1.0, max(0.0, (m - low) / ((high - low) or 0.001)))
        frequencies.append(value * (1 - slow) + value / FACTOR * slow)
    return torch.tensor(frequencies, dtype=torch.float64)


def yarn_by_turns(turns):
    """The paper's ramp: linear in the turns that a dimension makes in training, from 1 to `turns`."""
    frequencies = []
    for value in theta().tolist():
        r = value * TRAINED / (2 * math.pi)
        kept = 1.0 if r > turns else 0.0 if r < 1 else (r - 1) / (turns - 1)
        frequencies.append(kept * value + (1 - kept) * value / FACTOR)
    return torch.tensor(frequencies, dtype=torch.float64)


FACTORS = (1.0, 1.5, 2.5, 3.0, 3.9)


@functools.cache
def distances(rule):
    """`(N, N)`: the method's distance of query i and key j, NaN where it isn't seen."""
    table = torch.full((N, N), math.nan, dtype=torch.float64)
    for i in range(N):
        for j in range(i + 1):
            if (d := rule(i, j)) is not None:
                table[i, j] = d
    return table


def dca(i, j, size=7, context=12):
    key, same = j % size, i // size == j // size
    if same:
        return i % size - key
    return (min(size + i % size, context - 1) if i // size - j // size == 1 else context - 1) - key


def self_extend(i, j, w=5, group=3):
    return i - j if i - j < w else i // group - j // group + w - w // group


def plain(i, j):
    return i - j


# DPE: lengths of 26, 9 and 4 tokens for the pairs 0 and 1, 2 and 3, and 4, so that G is 52/26, 52/9 and 52/4, rounded up.
LENGTHS, SIZES = (26, 9, 4), (2, 2, 6, 6, 13)


def is_key_pair(layer, head, m):
    return (layer + head + m) % 3 > 0


@functools.cache
def dpe(size, w=5):
    return lambda i, j: i - j if i - j < w else i // size - j // size + w - w // size


def dpe_pair(layer, head, m):
    return dpe(SIZES[m]) if is_key_pair(layer, head, m) else plain


# What depends on the pair of coordinates too: from layer, head and pair to the distance rule.
BY_PAIR = {
    "dpe:window=5:lengths=LENGTHS": lambda layer, head, m: dpe(SIZES[m]),
    "dpe:window=5:lengths=PAIRS": dpe_pair,
    "dpe:window=5:lengths=PAIRS+yarn:turns=2+logn": dpe_pair,
}


# spec: (distance rule, frequencies, factor on scores, log-n)
METHODS = {
    "none": (plain, theta(), 1, False),
    "window:window=5": (lambda i, j: i - j if i - j < 5 else None, theta(), 1, False),
    "lambda:window=5:sinks=3": (lambda i, j: i - j if i - j < 5 else 5 if j < 3 else None, theta(), 1, False),
    "pi": (plain, theta() / FACTOR, 1, False),
    "ntk": (plain, ntk(FACTOR), 1, False),
    "ntk:factor=3": (plain, ntk(3), 1, False),
    "ntk-fixed": (plain, ntk_fixed(), 1, False),
    "ntk-mixed": (plain, ntk_mixed(0.625), 1, False),
    "ntk-mixed:exponent=0.75": (plain, ntk_mixed(0.75), 1, False),
    "dynamic-ntk": (plain, ntk(FACTOR), 1, False),
    "yarn:turns=2": (plain, yarn(2), (1 + 0.1 * math.log(FACTOR)) ** 2, False),
    "yarn-unscaled:turns=2": (plain, yarn(2), 1, False),
    "rerope:window=5": (lambda i, j: min(i - j, 5), theta(), 1, False),
    "rerope:window=60": (plain, theta(), 1, False),
    "leaky-rerope:window=5:leak=2.5": (
        lambda i, j: i - j if i - j < 5 else 5 + (i - j - 5) / 2.5,
        theta(),
        1,
        False,
    ),
    "yarn:turns=2:ramp=turns": (plain, yarn_by_turns(2), (1 + 0.1 * math.log(FACTOR)) ** 2, False),
    "yarn-unscaled:turns=1.5:ramp=turns": (plain, yarn_by_turns(1.5), 1, False),
    "dynamic-yarn:turns=2": (plain, yarn(2), (1 + 0.1 * math.log(FACTOR)) ** 2, False),
    "dynamic-yarn:turns=2:ramp=turns": (plain, yarn_by_turns(2), (1 + 0.1 * math.log(FACTOR)) ** 2, False),
    "longrope:factors=FILE": (
        plain,
        theta() / torch.tensor(FACTORS, dtype=torch.float64),
        1 + math.log(FACTOR) / math.log(TRAINED),
        False,
    ),
    "p-rope:share=0.6": (plain, theta() * torch.tensor([1, 1, 1, 0, 0]), 1, False),
    "string:shift=6:window=2": (lambda i, j: i - j if i - j < 6 else i - j - 6 + 2, theta(), 1, False),
    "dca:chunk=7:context=12+yarn:turns=2": (dca, yarn(2), (1 + 0.1 * math.log(FACTOR)) ** 2, False),
    "self-extend:window=5:group=3": (self_extend, theta(), 1, False),
    "dca:chunk=7:context=12": (dca, theta(), 1, False),
    "dpe:window=5": (dpe(8), theta(), 1, False),  # L/2 for all: 52 / 6.5
    "dpe:window=5:lengths=LENGTHS": (plain, theta(), 1, False),
    "dpe:window=5:lengths=PAIRS": (plain, theta(), 1, False),
    "dpe:window=5:lengths=PAIRS+yarn:turns=2+logn": (
        plain,
        yarn(2),
        (1 + 0.1 * math.log(FACTOR)) ** 2,
        True,
    ),
    "logn": (plain, theta(), 1, True),
    "rerope:window=5+logn": (lambda i, j: min(i - j, 5), theta(), 1, True),
    "ntk-mixed+logn": (plain, ntk_mixed(0.625), 1, True),
    "leaky-rerope:window=5:leak=2+ntk:factor=2+logn": (
        lambda i, j: i - j if i - j < 5 else 5 + (i - j - 5) / 2,
        ntk(2),
        1,
        True,
    ),
    "rerope:window=5+yarn:turns=2": (
        lambda i, j: min(i - j, 5),
        yarn(2),
        (1 + 0.1 * math.log(FACTOR)) ** 2,
        False,
    ),
}


def raw_states(attention, hidden):
    """Queries, keys and values before any rotation, `(batch, heads, n, dim)`, as each family makes them."""
    batch, n, _ = hidden.shape
    if hasattr(attention, "query_key_value"):  # GPT-NeoX: per head its query, key and value
        states = attention.query_key_value(hidden).view(batch, n, -1, 3, attention.head_size)
        query, key, value = (states[:, :, :, part].transpose(1, 2) for part in range(3))
        return query, key, value
    dim = attention.head_dim
    if hasattr(attention, "qkv_proj"):  # Phi3
        heads = attention.config.num_attention_heads
        states = attention.qkv_proj(hidden).view(batch, n, -1, dim).transpose(1, 2)
        shared = attention.num_key_value_heads
        return states[:, :heads], states[:, heads : heads + shared], states[:, heads + shared :]
    query, key, value = (
        getattr(attention, f"{name}_proj")(hidden).view(batch, n, -1, dim) for name in ("q", "k", "v")
    )
    if hasattr(attention, "q_norm"):  # Qwen3
        query, key = attention.q_norm(query), attention.k_norm(key)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def reference_forward(rule, frequencies, score_factor, logn, interleaved, by_pair, layer):
    seen = distances(rule)

    def forward(self, hidden_states, **kwargs):
        query, key, value = raw_states(self, hidden_states)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = torch.zeros(*query.shape[:2], N, N, dtype=torch.float64)
        for m, frequency in enumerate(frequencies.tolist()):
            first, second = (2 * m, 2 * m + 1) if interleaved else (m, m + ROTARY // 2)
            table = seen
            if by_pair:
                table = torch.stack([distances(by_pair(layer, head, m)) for head in range(query.shape[1])])
            angle = table * frequency
            a, b = query[..., first].unsqueeze(-1), query[..., second].unsqueeze(-1)
            c, d = key[..., first].unsqueeze(-2), key[..., second].unsqueeze(-2)
            # The real part of (a + bi) conj(c + di) e^(i angle).
            scores += score_factor * ((a * c + b * d) * angle.cos() + (a * d - b * c) * angle.sin())
        scores += query[..., ROTARY:] @ key[..., ROTARY:].transpose(-1, -2)
        scores /= math.sqrt(query.shape[-1])
        if logn:
            factors = [max(1.0, math.log(i + 1) / math.log(TRAINED)) for i in range(N)]
            scores *= torch.tensor(factors, dtype=torch.float64)[:, None]
        weights = scores.masked_fill(seen.isnan(), -math.inf).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        out = self.dense if hasattr(self, "dense") else self.o_proj
        return out(mixed), weights

    return forward


@torch.no_grad()
def reference_logits(model, tokens, spec):
    rule, frequencies, score_factor, logn = METHODS[spec]
    interleaved = model.config.model_type in {"cohere", "glm"}
    layers = [m for m in model.modules() if type(m).__name__.endswith("Attention")]
    assert len(layers) == 2
    for number, layer in enumerate(layers):
        forward = reference_forward(
            rule, frequencies, score_factor, logn, interleaved, BY_PAIR.get(spec), number
        )
        layer.forward = types.MethodType(forward, layer)
    try:
        return model(tokens).logits
    finally:
        for layer in layers:
            del layer.forward


@pytest.fixture
def tokens():
    return torch.randint(3, 61, (2, N), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "gpt_neox", "cohere", "mistral", "qwen2", "phi3", "phi", "glm"]
)
@torch.no_grad()
def test_every_method_is_its_formula(family, tiny, tokens, tmp_path):
    model = tiny(family)
    pairs = [
        [[m for m in range(ROTARY // 2) if is_key_pair(layer, head, m)] for head in range(heads)]
        for layer, heads in enumerate([model.config.num_attention_heads] * 2)
    ]
    files = {"FILE": FACTORS, "LENGTHS": LENGTHS, "PAIRS": {"lengths": LENGTHS, "key_pairs": pairs}}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    untouched = model(tokens).logits
    for spec in METHODS:
        wanted = reference_logits(model, tokens, spec)
        given = re.sub(r"=(FILE|LENGTHS|PAIRS)", rf"={tmp_path}/\1", spec)
        with context_extension(model, given, length=LENGTH, progress=_Quiet()):
            found = model(tokens).logits
        assert (found - wanted).abs().max() < 1e-5, spec
        assert torch.equal(model(tokens).logits, untouched), spec
        if spec not in {"none", "rerope:window=60"}:  # the test can tell methods apart
            assert (wanted - untouched).abs().max() > 0.5, spec


class _Quiet:
    def warn(self, message):
        pass
