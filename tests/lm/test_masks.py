"""Every mask against its definition in plain Python."""

import pytest
import torch

from ordtool.errors import UsageError
from ordtool.lm.masks import KINDS, additive, draw, example, mask_matrix

N = 7
SEGMENTS = [0, 0, 0, 1, 1, 1, 1]
ORDER = [3, 0, 6, 2, 5, 1, 4]  # who comes first, second...

DEFINITIONS = {
    "bidirectional": lambda q, k: True,
    "causal": lambda q, k: k <= q,
    "reversed": lambda q, k: k >= q,
    "prefix": lambda q, k: SEGMENTS[k] == 0 or (SEGMENTS[q] == 1 and k <= q),
    "permutation": lambda q, k: ORDER.index(k) <= ORDER.index(q),
    "window": lambda q, k: q - 3 < k <= q,
    "lambda": lambda q, k: k <= q and (k > q - 3 or k < 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_their_definitions(kind):
    ranks = torch.tensor(ORDER).argsort()
    mask = mask_matrix(kind, N, segments=torch.tensor(SEGMENTS), ranks=ranks, size=3, first=2)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[DEFINITIONS[kind](q, k) for k in range(N)] for q in range(N)]
    assert mask.diagonal().all()  # everyone sees itself


def test_batches_have_their_own_segments_and_orders():
    segments = torch.tensor([SEGMENTS, [0, 1, 1, 1, 1, 1, 1]])
    both = mask_matrix("prefix", N, segments=segments)
    assert both.shape == (2, N, N)
    assert torch.equal(both[1], mask_matrix("prefix", N, segments=segments[1]))
    ranks = torch.stack([torch.randperm(N) for _ in range(3)])
    assert mask_matrix("permutation", N, ranks=ranks).sum((1, 2)).tolist() == [N * (N + 1) // 2] * 3


def test_left_to_right_order_is_causal_and_all_target_too():
    causal = mask_matrix("causal", N)
    assert torch.equal(mask_matrix("permutation", N, ranks=torch.arange(N)), causal)
    assert torch.equal(mask_matrix("prefix", N, segments=torch.ones(N)), causal)
    assert mask_matrix("prefix", N, segments=torch.zeros(N)).all()
    assert torch.equal(mask_matrix("window", N, size=N), causal)


def test_drawn():
    assert draw(example("causal", 3)) == "  1 2 3\n1 ■ · ·\n2 ■ ■ ·\n3 ■ ■ ■"
    for kind in KINDS:
        assert len(draw(example(kind)).splitlines()) == 9
    with pytest.raises(UsageError, match="unknown mask"):
        example("casual")


def test_additive():
    mask = mask_matrix("causal", 3)
    scores = torch.randn(3, 3)
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close((scores + additive(mask)).softmax(-1), expected)
