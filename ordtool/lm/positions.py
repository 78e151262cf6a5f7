"""What the position schemes of `ordtool.lm.position_schemes` do to attention, one class each.

A scheme may turn queries and keys before keys are cached, change both when they meet, add a
bias by distance to the scores, or hide far keys. `d = i - j` is the distance of query `i` and
key `j`, counted in the cache, so that padding on the left does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ordtool.lm.attention import alibi_slopes
from ordtool.lm.rotary import RotaryEmbedding, apply_rotary
from ordtool.models.releases import fill

if TYPE_CHECKING:
    from ordtool.lm.config import OrdtoolLMConfig

QueryKey = tuple[Tensor, Tensor]


class Tables(NamedTuple):
    """Queries and keys turned in two ways.

    Attributes:
        near: For keys at d < border.
        far: For the others.
        border: In tokens.
    """

    near: QueryKey
    far: QueryKey
    border: int


class Positions(nn.Module):
    """No positions at all (`nope`), and what the other schemes build on.

    Haviv et al. 2022, "Transformer language models without positional encodings still learn
    positional information": a causal mask lets a model count.

    Args:
        config: The model's.
        layer: Which block this is for, from 0.

    Attributes:
        scale: Multiplies the scores.
        window: Keys at this distance and further are hidden; None: none is.
        logn: The scores are multiplied by ln n / ln L for n keys seen.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__()
        self.scale = config.key_size**-0.5
        self.window: int | None = None
        self.logn = False

    def reset(self) -> None:
        """Give learned parameters their first values."""

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Change queries and keys before keys are cached.

        Args:
            query: `(batch, heads, queries, key_size)`.
            key: `(batch, heads or fewer, queries, key_size)`.
            cos_sin: Cosines and sines of their positions, `(batch, 1, queries, key_size)`.

        Returns:
            Both, of the same shapes.
        """
        return query, key

    def meet(self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> QueryKey:
        """Change queries and cached keys by where they stand.

        Args:
            query: `(batch, heads, queries, key_size)`.
            key: `(batch, heads or fewer, keys, key_size)`.
            rows: Places of the queries in the cache, `(queries,)`.
            columns: Places of the keys, `(keys,)`.
        """
        return query, key

    def tables(
        self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor, rotary: RotaryEmbedding
    ) -> Tables | None:
        """Turn queries and cached keys in two ways, where near and far keys have different distances.

        Args:
            query: `(batch, heads, queries, key_size)`.
            key: `(batch, heads or fewer, keys, key_size)`.
            rows: Places of the queries in the cache, `(queries,)`.
            columns: Places of the keys, `(keys,)`.
            rotary: Gives cosines and sines.

        Returns:
            Both; None where one table of scores is enough.
        """
        return None

    def bias(self, distance: Tensor) -> Tensor | None:
        """Return what is added to the scores.

        Args:
            distance: d, `(queries, keys)`, negative for keys that come later.

        Returns:
            `(heads, queries, keys)` in float32 or wider, or None.
        """
        return None


class Rope(Positions):
    """`rope`: <R(i) q, R(j) k> = <R(d) q, k> (Su et al. 2021, RoFormer, equation 34)."""

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Turn both by their positions."""
        if cos_sin is None:
            return query, key
        return apply_rotary(query, *cos_sin), apply_rotary(key, *cos_sin)


class Alibi(Positions):
    """`alibi`: score - 2^(-8h/H) |d|, h = 1..H (Press et al. 2022, section 3)."""

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.heads = config.num_attention_heads

    def bias(self, distance: Tensor) -> Tensor:
        """Return the penalty."""
        return -alibi_slopes(self.heads).to(distance.device)[:, None, None] * distance.abs()


class Kerple(Positions):
    """`kerple`: score - r1 ln(1 + r2 |d|), r1, r2 > 0 of each head (Chi et al. 2022, KERPLE, logarithmic).

    Deviations: the logarithms of r1 and r2 are learned, where the paper's code clips both from
    below; they start evenly spread over (0, 2) and (0, 1), where the code draws them from there.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.log_r1 = nn.Parameter(torch.empty(config.num_attention_heads))
        self.log_r2 = nn.Parameter(torch.empty(config.num_attention_heads))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Spread r1 over (0, 2) and r2 over (0, 1), in the middles of equal parts."""
        heads = len(self.log_r1)
        middles = (torch.arange(heads) + 0.5) / heads
        fill(self.log_r1, (2 * middles).log())
        fill(self.log_r2, middles.log())

    def bias(self, distance: Tensor) -> Tensor:
        """Return the penalty."""
        r1, r2 = self.log_r1.float().exp(), self.log_r2.float().exp()
        return -r1[:, None, None] * torch.log1p(r2[:, None, None] * distance.abs())


class KerplePower(Positions):
    """`kerple-power`: score - r1 |d|^r2, r1 > 0 and 0 < r2 < 2 of each head (Chi et al. 2022, KERPLE, power).

    Deviations: r1 is learned by its logarithm and r2 as 2 sigmoid(x), where the paper's code clips both; they start evenly
    spread over (0, 1). r2 = 1 in all heads would be ALiBi with learned slopes.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.log_r1 = nn.Parameter(torch.empty(config.num_attention_heads))
        self.logit_r2 = nn.Parameter(torch.empty(config.num_attention_heads))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Spread r1 and r2 over (0, 1), in the middles of equal parts."""
        heads = len(self.log_r1)
        middles = (torch.arange(heads) + 0.5) / heads
        fill(self.log_r1, middles.log())
        fill(self.logit_r2, (middles / 2).logit())

    def bias(self, distance: Tensor) -> Tensor:
        """Return the penalty."""
        wide = torch.promote_types(self.log_r1.dtype, torch.float32)
        r1, r2 = self.log_r1.to(wide).exp(), 2 * self.logit_r2.to(wide).sigmoid()
        return -r1[:, None, None] * distance.abs().to(wide) ** r2[:, None, None]


class Sandwich(Positions):
    """`sandwich`: score + H/(8h) sum_i cos(d / 10000^(2i/S)), i = 0 .. S/2 - 1.

    The product of two sinusoidal position vectors of size S depends on d alone; Chi et al. 2023,
    "Dissecting transformer length extrapolation via the lens of receptive field analysis",
    take it as a bias, divided by 8h/H. S = 128 as there. A constant, S/2, is taken off, so that the
    bias is 0 at d = 0 and at most 0 elsewhere; a softmax doesn't see that.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.heads = config.num_attention_heads
        self.size = int(config.position_parameters["size"])

    def bias(self, distance: Tensor) -> Tensor:
        """Return the bias; cosines once for each distance that occurs, not for each pair."""
        distance = distance.abs()
        furthest = int(distance.max()) if distance.numel() else 0
        wide = torch.float32 if distance.device.type == "mps" else torch.float64
        index = torch.arange(0, self.size, 2, dtype=wide, device=distance.device)
        angles = torch.arange(furthest + 1, dtype=wide, device=distance.device)[:, None]
        one = ((angles / 10000 ** (index / self.size)).cos() - 1).sum(-1).float()
        ratio = self.heads / (8 * torch.arange(1, self.heads + 1, device=distance.device))
        return ratio[:, None, None] * one[distance]


class XPos(Rope):
    """`xpos`: rope whose m-th pair decays by z_m^(d/B), z_m = (2m/D + g) / (1 + g).

    Sun et al. 2022, "A length-extrapolatable transformer", table 1: queries are multiplied by
    z^(i/B) and keys by z^(-j/B). Here i and j are counted from a query at hand, so that nothing
    overflows in long texts, and keys are cached without it. B = 512 and g = 0.4 as there.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.size = config.key_size
        self.base = float(config.position_parameters["base"])
        self.gamma = float(config.position_parameters["gamma"])

    def meet(self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> QueryKey:
        """Let pairs of coordinates decay with the distance."""
        first = rows[:1]
        return query * self._power(rows - first).to(query), key * self._power(first - columns).to(key)

    def _power(self, places: Tensor) -> Tensor:
        wide = torch.float32 if places.device.type == "mps" else torch.float64
        order = torch.arange(0, self.size, 2, device=places.device, dtype=wide) / self.size
        shrink = ((order + self.gamma) / (1 + self.gamma)).log().repeat(2)
        return (places[:, None].to(wide) / self.base * shrink).exp()


class KeyNorm(Rope):
    """`keynorm`: rope with scores <q, k / |k|>, without 1 / sqrt(D) (Su, kexue.fm/archives/9859).

    The model can then reach a score by the angle and by |q|, but not by |k|.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.scale = 1.0

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Bring keys to length 1 and turn both."""
        return super().encode(query, normalize(key, dim=-1), cos_sin)


class QueryNorm(Rope):
    """`querynorm`: rope with scores <q / |q|, k>, without 1 / sqrt(D) (QNA of Su, kexue.fm/archives/9859)."""

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.scale = 1.0

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Bring queries to length 1 and turn both."""
        return super().encode(normalize(query, dim=-1), key, cos_sin)


class Cosine(Rope):
    """`cosine`: rope with scores lambda cos(q, k) (CosA of Su, kexue.fm/archives/9859).

    Lambda is 4 ln n there, n half the trained length, or the keys seen: that is `scale` 4 ln L with log-n in training.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.scale = float(config.position_parameters["scale"])

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Bring both to length 1 and turn them."""
        return super().encode(normalize(query, dim=-1), normalize(key, dim=-1), cos_sin)


class Hwfa(Rope):
    """`hwfa`: rope within d < w in all layers but the last ones, which see all and have no positions.

    Su, kexue.fm/archives/9603. The windowed layers never meet a distance that they
    haven't seen in training; the last layer, whose scores are multiplied by ln n / ln L, looks up what is
    far. By default w is such that the windows together reach back 3/4 L.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        full = layer >= config.num_hidden_layers - int(config.position_parameters["full"])
        self.window = None if full else int(config.position_parameters["window"])
        self.logn = full

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Turn both, in a windowed layer."""
        return super().encode(query, key, None if self.window is None else cos_sin)


class RNopeSwa(Rope):
    """`rnope-swa`: rope within d < w, but in every k-th layer all keys, without positions.

    Yang et al. 2025, "RoPE to NoPE and back again": windowed layers with rope know what is near, full layers without it
    look up what is far; three of the first to one of the second there. Unlike `hwfa` the full layers are spread, and their
    scores are not scaled.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        full = (layer + 1) % int(config.position_parameters["period"]) == 0
        self.window = None if full else int(config.position_parameters["window"])

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Turn both, in a windowed layer."""
        return super().encode(query, key, None if self.window is None else cos_sin)


class ReRope(Rope):
    """`rerope`: rope at min(d, w), in training and afterwards.

    Su, kexue.fm/archives/9948: a model that is trained so doesn't read further, though one that is trained with plain
    rope does with it afterwards. Distances are then less diverse, and so are the angles of queries and keys.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.near = int(config.position_parameters["window"])

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Leave both as they are where they are turned when they meet."""
        return (query, key) if self.meets_twice else super().encode(query, key, cos_sin)

    @property
    def meets_twice(self) -> bool:
        """Say whether scores come from two tables."""
        return self.near > 0

    def tables(
        self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor, rotary: RotaryEmbedding
    ) -> Tables | None:
        """Turn both by their places, and for far keys the queries alone, by w."""
        if not self.meets_twice:
            return None
        near = _turn(query, rows, rotary), _turn(key, columns, rotary)
        return Tables(near, (_turn(query, torch.full_like(rows, self.near), rotary), key), self.near)


class Hwfa2(ReRope):
    """`hwfa2`: rope within d < w in all layers but those in the middle, which see all.

    Su, kexue.fm/archives/9731. Of f layers that see all, the k-th is number k layers / (f + 1), from 0. In training they
    have plain rope, afterwards rope at min(d, v); with v = 0 it stays plain, and the model doesn't read further.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        Rope.__init__(self, config, layer)
        given, layers = config.position_parameters, config.num_hidden_layers
        count = int(given["middle"])
        full = layer in {k * layers // (count + 1) for k in range(1, count + 1)}
        self.window = None if full else int(given["window"])
        self.near = int(given["rerope"]) if full else 0

    @property
    def meets_twice(self) -> bool:
        """Say whether scores come from two tables: not in training."""
        return self.near > 0 and not self.training


class InverseLeaky(Rope):
    """`inverse-leaky`: rope at w + (d - w) k for d >= w in training, plain rope afterwards.

    Su, kexue.fm/archives/9728 (there with 1/k for k). Far distances are stretched in training
    instead of being squeezed in testing, so that plain, fast attention can be used on long texts: distances
    up to w + (L - w) k have been met.
    """

    def __init__(self, config: OrdtoolLMConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.near = int(config.position_parameters["window"])
        self.stretch = float(config.position_parameters["stretch"])

    def encode(self, query: Tensor, key: Tensor, cos_sin: QueryKey | None) -> QueryKey:
        """Turn both; in training that is left to `tables`."""
        return (query, key) if self.training else super().encode(query, key, cos_sin)

    def tables(
        self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor, rotary: RotaryEmbedding
    ) -> Tables | None:
        """Turn both by their places, and for far keys by stretched ones, in training."""
        if not self.training:
            return None
        near = _turn(query, rows, rotary), _turn(key, columns, rotary)
        # d -> w + (d - w) k is (i k + w - w k) - j k.
        far_rows = rows * self.stretch + self.near * (1 - self.stretch)
        far = _turn(query, far_rows, rotary), _turn(key, columns * self.stretch, rotary)
        return Tables(near, far, self.near)


def _turn(states: Tensor, places: Tensor, rotary: RotaryEmbedding) -> Tensor:
    """Turn `(batch, heads, n, key_size)` by places `(n,)`."""
    return apply_rotary(states, *rotary.for_heads(places[None], states))


_CLASSES: dict[str, type[Positions]] = {
    "rope": Rope,
    "nope": Positions,
    "alibi": Alibi,
    "kerple": Kerple,
    "kerple-power": KerplePower,
    "sandwich": Sandwich,
    "xpos": XPos,
    "keynorm": KeyNorm,
    "querynorm": QueryNorm,
    "cosine": Cosine,
    "hwfa": Hwfa,
    "hwfa2": Hwfa2,
    "rnope-swa": RNopeSwa,
    "rerope": ReRope,
    # These two differ in the model's frequencies.
    "p-rope": Rope,
    "partial": Rope,
    # Positions are drawn with the text, by `ordtool.lm.corpus.Blocks`.
    "random": Rope,
    "inverse-leaky": InverseLeaky,
}

_FIXED = {
    "nope": "it was trained without positions",
    "alibi": "it was trained with ALiBi, a penalty on distances, which needs no such method",
    "kerple": "it was trained with KERPLE, a penalty on distances, which needs no such method",
    "kerple-power": "it was trained with KERPLE, a penalty on distances, which needs no such method",
    "sandwich": "it was trained with Sandwich, a bias by distance, which needs no such method",
    "xpos": "it was trained with xPos, whose pairs decay with the distance as well as turn",
    "hwfa": "it was trained with windows, within which no distance is new, and a last layer without positions",
    "hwfa2": "it has windows, within which no distance is new, and ReRoPE of its own where it sees all",
    "rnope-swa": "it was trained with windows, within which no distance is new, and full layers without positions",
    "rerope": "it was trained with ReRoPE, and has it already",
}


def count_positions(padding: Tensor | None, past: int, tokens: Tensor) -> Tensor:
    """Return the positions of tokens, padding not counted.

    Args:
        padding: `(batch, past + seq)`, 0 for padding; None, or a mask of another form: none is.
        past: Tokens in the cache.
        tokens: What is read now, `(batch, seq, ...)`.

    Returns:
        `(batch, seq)`, from 0.
    """
    batch, length = tokens.shape[:2]
    if padding is not None and padding.dim() == 2:
        return (padding.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    return torch.arange(past, past + length, device=tokens.device).expand(batch, -1)


def make_positions(config: OrdtoolLMConfig, layer: int) -> Positions:
    """Make what a block's attention does about positions."""
    return _CLASSES[config.positions](config, layer)


def why_fixed(config: Any) -> str | None:
    """Say why a model's positions can't be changed after training; None: they can."""
    if config.positions in _FIXED:
        return _FIXED[config.positions]
    if config.objective != "causal":
        return f"it doesn't read from left to right alone (objective {config.objective})"
    return "its heads talk to each other" if config.talking_heads else None
