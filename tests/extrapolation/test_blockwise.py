import math

import pytest
import torch

from ordtool.extrapolation import blockwise, flex, kernel
from ordtool.extrapolation.regions import (
    PLAIN,
    dca_regions,
    dpe_regions,
    lambda_regions,
    leaky_rerope_regions,
    rerope_regions,
    self_extend_regions,
    window_regions,
)

HEADS, KEY_HEADS, DIM, N = 6, 3, 10, 61
SCALING = 0.37
REGIONS = {
    "plain": PLAIN,
    "window": window_regions(11),
    "lambda": lambda_regions(11, 3),
    "rerope": rerope_regions(11),
    "wide": rerope_regions(1000),
    "one": rerope_regions(1),
    "leaky": leaky_rerope_regions(11, 2.5),
    "self-extend": self_extend_regions(13, 5),
    "dca": dca_regions(11, 17),
    "dpe": dpe_regions(11, (3, 7, 1)),
}
COLUMNS = [0, 0, 1, 2, 3]  # of each pair of coordinates, where positions have several


def rotate(states, positions):
    """Half-split rotation in float64."""
    if positions is None:
        return states
    theta = 17.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    at = positions.double()
    angle = (at.unsqueeze(-1) if at.ndim == 1 else at[:, COLUMNS]) * theta
    first, second = states.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, HEADS, N, DIM), (2, KEY_HEADS, N, DIM), (2, KEY_HEADS, N, DIM))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def one_by_one(query, key, value, regions, scale=None):
    """Each query alone, raw, and each key rotated by its distance."""
    count = query.shape[2]
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    rows = []
    for i in range(N - count, N):
        index, scores = torch.tensor([i]), torch.full((2, HEADS, N), -math.inf, dtype=torch.float64)
        for region in regions:
            keys = torch.arange(max(0, int(region.start(index))), max(0, min(i + 1, int(region.stop(index)))))
            assert scores[0, 0, keys].isinf().all(), "regions overlap"
            at = region.key(keys) if region.key else torch.zeros(len(keys))
            turned = rotate(key[:, :, keys], at - region.query(index))
            scores = scores.index_copy(2, keys, (query[:, :, i - N + count, None] * turned).sum(-1))
        factor = 1.0 if scale is None else scale(index + 1)
        rows.append(((scores * SCALING * factor).softmax(-1).unsqueeze(-1) * value).sum(2))
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("block", [7, 16, 512])
def test_blocks_merge_to_the_whole(name, block, states, monkeypatch):
    monkeypatch.setattr(blockwise, "LEAST", 2)
    wanted = one_by_one(*states, REGIONS[name])
    found = blockwise.region_attention(*states, REGIONS[name], rotate, scaling=SCALING, block=block)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("count", [1, 2, 19])
def test_queries_that_continue_a_cache(name, count, states):
    query, key, value = states
    whole = one_by_one(query, key, value, REGIONS[name])
    found = blockwise.region_attention(
        query[:, :, -count:], key, value, REGIONS[name], rotate, scaling=SCALING, block=5
    )
    torch.testing.assert_close(found, whole[:, :, -count:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 19, N])
def test_a_factor_on_each_query(count, states):
    query, key, value = states

    def scale(seen):
        return seen.double().sqrt()

    wanted = one_by_one(query[:, :, -count:], key, value, PLAIN, scale)
    found = blockwise.region_attention(
        query[:, :, -count:], key, value, PLAIN, rotate, scaling=SCALING, scale=scale, block=5
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_no_piece_is_as_large_as_the_square(states, monkeypatch):
    """Of 61 x 61 pairs, a border block of 8 queries sees at most 8 x (11 + 8) with a mask."""
    pieces = []
    attend = blockwise.attend

    def spy(query, key, value, visible, scaling):
        pieces.append((query.shape[2], key.shape[2], visible is not None))
        return attend(query, key, value, visible, scaling)

    monkeypatch.setattr(blockwise, "attend", spy)
    monkeypatch.setattr(blockwise, "LEAST", 4)
    blockwise.region_attention(*states, REGIONS["rerope"], rotate, scaling=SCALING, block=8)
    assert max(rows for rows, _, _ in pieces) == 8
    assert max(columns for _, columns, masked in pieces if masked) <= 11 + 8
    computed = sum(rows * columns for rows, columns, _ in pieces)
    assert computed < N * N / 2 + N * (11 + 3 * 8)


@pytest.mark.parametrize("masked", [False, True])
def test_the_plain_kernel_is_the_fused_one(masked, states, monkeypatch):
    query, key, value = states
    generator = torch.Generator().manual_seed(4)
    visible = torch.rand(N, N, generator=generator) > 0.6 if masked else None
    if visible is not None:
        visible[5] = False
    monkeypatch.setattr(kernel, "TILE", 17)
    fused = kernel.attend(query, key, value, visible, SCALING)
    query.requires_grad_()
    plain = kernel.attend(query, key, value, visible, SCALING)
    assert plain.output.requires_grad
    torch.testing.assert_close(plain.output.detach(), fused.output, rtol=0, atol=1e-12)
    torch.testing.assert_close(plain.lse.detach(), fused.lse, rtol=0, atol=1e-12)
    if visible is not None:
        assert (fused.lse[:, :, 5] == kernel.NOTHING).all()


def test_gradients_are_those_of_the_naive_formula(states):
    grads = []
    for attention in (
        one_by_one,
        lambda q, k, v, r: blockwise.region_attention(q, k, v, r, rotate, scaling=SCALING, block=16),
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in states]
        attention(*inputs, REGIONS["leaky"]).square().sum().backward()
        grads.append([tensor.grad for tensor in inputs])
    for found, wanted in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_dtypes_lose_only_their_own_rounding(dtype, states):
    wanted = one_by_one(*states, REGIONS["rerope"])
    small = [tensor.to(dtype) for tensor in states]

    def turned(tensor, positions):
        return rotate(tensor.double(), positions).to(dtype)

    found = blockwise.region_attention(*small, REGIONS["rerope"], turned, scaling=SCALING, block=16)
    assert found.dtype == dtype
    assert (found.double() - wanted).abs().max() < 30 * torch.finfo(dtype).eps


@pytest.fixture
def small_blocks(monkeypatch):
    """FlexAttention without compiling, in blocks of 16; its own default is 128."""
    monkeypatch.setattr(flex, "BLOCK", 16)


UNCOMPILED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@UNCOMPILED
@pytest.mark.parametrize("count", [N, 19, 2])
@pytest.mark.parametrize("name", REGIONS)
def test_flex_regions_are_pairs_one_by_one(name, count, states, small_blocks):
    query, key, value = states
    wanted = one_by_one(query[:, :, -count:], key, value, REGIONS[name])
    attention = flex.FlexRegions(REGIONS[name], compiled=False)
    found = attention(query[:, :, -count:], key, value, rotate, scaling=SCALING)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@UNCOMPILED
def test_flex_regions_with_a_factor_on_each_query(states, small_blocks):
    wanted = one_by_one(*states, REGIONS["rerope"], lambda seen: seen.double().sqrt())
    attention = flex.FlexRegions(REGIONS["rerope"], compiled=False)
    found = attention(*states, rotate, scaling=SCALING, scale=lambda seen: seen.double().sqrt())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count, total", [(61, 61), (16, 64), (20, 77), (1, 33), (128, 128)])
@pytest.mark.parametrize("name", REGIONS)
def test_blocks_hold_what_is_visible(name, count, total, small_blocks):
    """Where no block is listed nothing is visible, and where one is listed as whole everything is."""
    columns = torch.arange(total)
    for region in REGIONS[name]:
        start, stop = region.bounds(torch.arange(total - count, total))
        blocks = flex.region_blocks(start, stop, total)
        visible = (columns >= start[:, None]) & (columns < stop[:, None])
        partly, whole = (
            _listed(numbers, indices)
            for numbers, indices in (
                (blocks.kv_num_blocks, blocks.kv_indices),
                (blocks.full_kv_num_blocks, blocks.full_kv_indices),
            )
        )
        assert not (partly & whole).any()
        listed = (partly | whole).repeat_interleave(16, 0).repeat_interleave(16, 1)[:count, :total]
        assert not (visible & ~listed).any()
        assert visible[whole.repeat_interleave(16, 0).repeat_interleave(16, 1)[:count, :total]].all()


def _listed(numbers, indices):
    found = torch.zeros(indices.shape[2:], dtype=torch.bool)
    for row, number in enumerate(numbers[0, 0].tolist()):
        found[row, indices[0, 0, row, :number].long()] = True
    return found


def test_few_blocks_are_computed_twice(small_blocks):
    """Of ReRoPE's two regions only the blocks at their border come twice, and nearly all others are whole."""
    index = torch.arange(1024)
    twice = partly = 0
    for region in rerope_regions(200):
        blocks = flex.region_blocks(*region.bounds(index), 1024)
        partly += int(blocks.kv_num_blocks.sum())
        twice += int(blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum())
    rows = 1024 // 16
    assert twice <= rows * (rows + 1) / 2 + 2 * rows
    assert partly <= 5 * rows
