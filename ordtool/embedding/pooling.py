r"""Token vectors to one vector a text.

Texts of one length stand together as a group `(count, length, hidden)`, so there is no padding and no mask here.
Sums run in float32 whatever the dtype of the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ordtool.errors import UsageError, close_match_hint

if TYPE_CHECKING:
    import torch

    Pool = Callable[[torch.Tensor, int], torch.Tensor]


def _cls(states: torch.Tensor, skip: int) -> torch.Tensor:
    return states[:, skip].float()


def _last(states: torch.Tensor, skip: int) -> torch.Tensor:
    return states[:, -1].float()


def _max(states: torch.Tensor, skip: int) -> torch.Tensor:
    return states[:, skip:].amax(dim=1).float()


def _mean(states: torch.Tensor, skip: int) -> torch.Tensor:
    import torch

    return states[:, skip:].mean(dim=1, dtype=torch.float32)


def _mean_sqrt(states: torch.Tensor, skip: int) -> torch.Tensor:
    kept = states[:, skip:]
    return kept.float().sum(dim=1) / float(kept.shape[1]) ** 0.5


def _weighted_mean(states: torch.Tensor, skip: int) -> torch.Tensor:
    import torch

    weights = torch.arange(skip + 1, states.shape[1] + 1, dtype=torch.float32, device=states.device)
    return torch.einsum("nlh,l->nh", states[:, skip:].float(), weights / weights.sum())


POOLERS: dict[str, Pool] = {
    "cls": _cls,
    "mean": _mean,
    "max": _max,
    "last": _last,
    "mean-sqrt": _mean_sqrt,
    "weighted-mean": _weighted_mean,
}
# `pooler` is the model's own head over the first token; `first-last` is the mean over two layers.
POOLINGS = (*POOLERS, "pooler", "first-last")


def parse_poolings(text: str) -> tuple[str, ...]:
    """Read `mean`, or `cls,mean` for a concatenation.

    Raises:
        UsageError: For an unknown name, with the closest one that there is.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in POOLINGS:
            raise UsageError(f"unknown pooling {name!r}", close_match_hint(name, POOLINGS))
    if len(names) > 1 and "first-last" in names:
        raise UsageError("first-last stands alone: it chooses the layers", "`pooling` mean,max `layers` 1,-1")
    return names


def pool_group(states: torch.Tensor, poolings: Sequence[str], skip: int) -> torch.Tensor:
    """Pool texts of one length.

    Args:
        states: Hidden states, `(count, length, hidden)`.
        poolings: Names in `POOLERS`; several are concatenated.
        skip: Tokens at the start that are left out; the last token never is.

    Returns:
        `(count, hidden * len(poolings))`, float32.
    """
    import torch

    skip = min(skip, states.shape[1] - 1)
    pooled = [POOLERS[name](states, skip) for name in poolings]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Read `1,-1`, `2-4` or `all`.

    Args:
        text: Layer numbers as in `hidden_states`: 0 is the embeddings, -1 the last layer.
        count: How many hidden states the model has: its layers and the embeddings.

    Returns:
        Indices from 0 to `count - 1`, in the order asked for.

    Raises:
        UsageError: For what isn't a number, or a layer that the model doesn't have.
    """
    if text == "all":
        return tuple(range(count))
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = (
            part.strip().partition("-") if not part.strip().startswith("-") else (part.strip(), "", "")
        )
        try:
            numbers = range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise UsageError(
                f"`layers` {text}: {part.strip()!r} is no layer", "for example `layers` 1,-1 or `layers` all"
            ) from None
        for number in numbers:
            if not -count <= number < count:
                raise UsageError(
                    f"`layers` {text}: there is no layer {number}",
                    f"the model has layers 0 (the embeddings) to {count - 1}; -1 is the last",
                )
            layers.append(number % count)
    return tuple(layers)
