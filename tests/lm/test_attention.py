"""Attention against loops over single numbers in float64; every dimension is another prime."""

import math

import pytest
import torch

from ordtool.lm.attention import alibi_slopes, attend, logn_scale, talking_heads_attention
from ordtool.lm.rotary import apply_rotary, inverse_frequencies, rotary_cos_sin

BATCH, HEADS, QUERIES, KEYS, KEY_SIZE, VALUE_SIZE = 2, 3, 5, 7, 11, 13


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    query = torch.randn(BATCH, HEADS, QUERIES, KEY_SIZE, **double)
    key = torch.randn(BATCH, HEADS, KEYS, KEY_SIZE, **double)
    value = torch.randn(BATCH, HEADS, KEYS, VALUE_SIZE, **double)
    mask = torch.rand(BATCH, 1, QUERIES, KEYS) < 0.6
    mask[..., 0] = True
    before, after = torch.randn(2, HEADS, HEADS, **double)
    return query, key, value, mask, before, after


def loop(query, key, value, visible, scale, before=None, after=None):
    heads = range(query.shape[1])
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for b in range(query.shape[0]):
        for q in range(query.shape[2]):
            seen = [k for k in range(key.shape[2]) if visible(b, q, k)]
            plain = [[scale * sum(query[b, h, q, d] * key[b, h, k, d] for d in range(query.shape[3])) for k in seen]
                     for h in heads]  # fmt: skip
            if before is not None:
                plain = [
                    [sum(before[i, j] * plain[j][n] for j in heads) for n in range(len(seen))] for i in heads
                ]
            weights = []
            for row in plain:
                powers = [math.exp(score - max(row)) for score in row]
                weights.append([power / sum(powers) for power in powers])
            if after is not None:
                weights = [
                    [sum(after[i, j] * weights[j][n] for j in heads) for n in range(len(seen))] for i in heads
                ]
            for h in heads:
                for n, k in enumerate(seen):
                    out[b, h, q] += weights[h][n] * value[b, h, k]
    return out


def test_attention_is_the_loop(tensors):
    query, key, value, mask, _, _ = tensors
    expected = loop(query, key, value, lambda b, q, k: mask[b, 0, q, k], 0.3)
    torch.testing.assert_close(attend(query, key, value, mask, 0.3), expected)


@pytest.mark.parametrize("fused", [False, True])
def test_talking_heads_are_the_loop_in_both_forms(tensors, fused):
    query, key, value, mask, before, after = tensors
    expected = loop(query, key, value, lambda b, q, k: mask[b, 0, q, k], 0.3, before, after)
    torch.testing.assert_close(
        talking_heads_attention(query, key, value, mask, 0.3, before, after, fused), expected
    )
    bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e30)
    torch.testing.assert_close(
        talking_heads_attention(query, key, value, bias, 0.3, before, after, fused), expected
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["before", "after"])
def test_lambda_alone_and_m_alone(tensors, fused, where):
    query, key, value, mask, *mixing = tensors
    before, after = (mixing[0], None) if where == "before" else (None, mixing[1])
    expected = loop(query, key, value, lambda b, q, k: mask[b, 0, q, k], 0.3, before, after)
    torch.testing.assert_close(
        talking_heads_attention(query, key, value, mask, 0.3, before, after, fused), expected
    )


def test_heads_that_say_nothing_new_change_nothing(tensors):
    query, key, value, mask, _, _ = tensors
    same = torch.eye(HEADS, dtype=torch.float64)
    for fused in (False, True):
        found = talking_heads_attention(query, key, value, mask, 0.3, same, same, fused)
        torch.testing.assert_close(found, attend(query, key, value, mask, 0.3))


@pytest.mark.parametrize("keys", [1000, 1050])
def test_the_form_chosen_for_a_length_changes_nothing(keys):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, n, 4, generator=draw, dtype=torch.float64) for n in (3, keys, keys)
    )
    before, after = (torch.randn(2, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    found = [
        talking_heads_attention(query, key, value, None, 0.5, before, after, fused)
        for fused in (None, True, False)
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_grouped_heads_share_keys(tensors):
    _, key, value, mask, _, _ = tensors
    query = torch.randn(BATCH, 2 * HEADS, QUERIES, KEY_SIZE, dtype=torch.float64)
    found = attend(query, key, value, mask, 0.3)
    for head in range(2 * HEADS):
        group = slice(head // 2, head // 2 + 1)
        alone = attend(query[:, head : head + 1], key[:, group], value[:, group], mask, 0.3)
        torch.testing.assert_close(found[:, head : head + 1], alone)


def test_rotation_is_the_papers_matrix_in_other_columns():
    size, positions = 6, torch.tensor([[0, 1, 2, 50000]])
    x = torch.randn(1, 1, 4, size, dtype=torch.float64)
    cosine, sine = rotary_cos_sin(positions, inverse_frequencies(size), torch.float64)
    found = apply_rotary(x, cosine[:, None], sine[:, None])
    for n, position in enumerate(positions[0].tolist()):
        for i in range(size // 2):
            angle = position * 10000 ** (-2 * i / size)
            pair = complex(x[0, 0, n, i], x[0, 0, n, i + size // 2]) * complex(
                math.cos(angle), math.sin(angle)
            )
            assert found[0, 0, n, i] == pytest.approx(pair.real, abs=1e-9)
            assert found[0, 0, n, i + size // 2] == pytest.approx(pair.imag, abs=1e-9)


def test_scores_depend_on_the_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 10, dtype=torch.float64)
    frequencies = inverse_frequencies(10)

    def score(m, n):
        turned = [
            apply_rotary(
                x, *(t[:, None] for t in rotary_cos_sin(torch.tensor([[place]]), frequencies, torch.float64))
            )
            for x, place in ((query, m), (key, n))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(17, 5), score(1017, 1005))
    with pytest.raises(ValueError, match="even"):
        inverse_frequencies(7)


def test_logn_is_one_up_to_the_trained_length():
    seen = torch.tensor([1, 16, 64, 256])
    assert logn_scale(seen, 64).tolist() == pytest.approx([1, 1, 1, math.log(256) / math.log(64)])


def test_alibi_slopes_of_eight_heads():
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
