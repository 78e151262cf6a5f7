"""Poolings against loops over one text's tokens."""

import numpy as np
import pytest
import torch

from ordtool.embedding.pooling import POOLERS, parse_layers, parse_poolings, pool_group
from ordtool.errors import UsageError

COUNT, LENGTH, HIDDEN = 5, 7, 3


def by_loop(name: str, tokens: list[np.ndarray], skip: int) -> np.ndarray:
    """Pool the tokens of one text, `(length, hidden)`, as a reader of the docs would."""
    skip = min(skip, len(tokens) - 1)
    kept = list(tokens)[skip:]
    if name == "cls":
        return kept[0]
    if name == "last":
        return kept[-1]
    if name == "max":
        return np.array([max(token[j] for token in kept) for j in range(HIDDEN)])
    if name == "mean":
        return sum(kept) / len(kept)
    if name == "mean-sqrt":
        return sum(kept) / len(kept) ** 0.5
    places = range(skip + 1, len(tokens) + 1)
    return sum(place * token for place, token in zip(places, kept, strict=True)) / sum(places)


@pytest.mark.parametrize("skip", [0, 2, 99])
@pytest.mark.parametrize("name", sorted(POOLERS))
def test_each_pooling_is_its_definition(name, skip):
    states = torch.randn(
        COUNT, LENGTH, HIDDEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    pooled = pool_group(states.float(), [name], skip)
    assert pooled.dtype == torch.float32
    for row, tokens in zip(pooled.numpy(), states.numpy(), strict=True):
        np.testing.assert_allclose(row, by_loop(name, tokens, skip), rtol=1e-5, atol=1e-6)


def test_several_stand_side_by_side():
    states = torch.randn(COUNT, LENGTH, HIDDEN, generator=torch.Generator().manual_seed(0))
    both = pool_group(states, ["cls", "max"], 0)
    np.testing.assert_array_equal(both, torch.cat([states[:, 0], states.amax(1)], dim=1))


def test_sums_of_half_precision_states_run_in_float32():
    states = torch.ones(1, 3000, 1, dtype=torch.bfloat16)  # in bfloat16 a sum of ones stops at 256
    assert pool_group(states, ["mean"], 0).item() == 1
    assert pool_group(states, ["mean-sqrt"], 0).item() == pytest.approx(3000**0.5)


def test_names():
    assert parse_poolings("cls, mean") == ("cls", "mean")
    with pytest.raises(UsageError, match="unknown pooling 'men'") as error:
        parse_poolings("men")
    assert "did you mean 'mean'" in error.value.hint
    with pytest.raises(UsageError, match="stands alone"):
        parse_poolings("first-last,cls")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0", (0,)),
        ("-1", (6,)),
        ("1,-1", (1, 6)),
        ("2-4", (2, 3, 4)),
        ("all", tuple(range(7))),
        (" 3 , -2 ", (3, 5)),
    ],
)
def test_layers(text, layers):
    assert parse_layers(text, 7) == layers


@pytest.mark.parametrize("text", ["7", "-8", "one", "1,", "1-x", ""])
def test_layers_that_are_not_there(text):
    with pytest.raises(UsageError, match="layer"):
        parse_layers(text, 7)
