"""Fisher information of the backbone's weights: the only time that a gradient passes through it, on a few batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ordtool.batching import shuffled_batches
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.encoding import NO_TARGET, Encoded
from ordtool.tuning.ladder.mixing import pool
from ordtool.tuning.metrics import text_loss

TEXTS = 64
BATCH = 8


def squared_gradients(
    backbone: Backbone, data: Encoded, task: str, pooling: str, texts: int = TEXTS
) -> dict[str, Tensor]:
    r"""Return $\sum_b (\partial L_b / \partial w)^2$ over batches $b$ of a few training texts.

    For text tasks $L$ is the language model's own loss. A label has no trained head yet, so its loss is that of a
    nearest-centroid read-out: logits are cosines with the classes' mean vectors, over the same texts; for scores,
    the classes are below and above the median. Where tokens have labels, their own states take the place of the texts'.

    Args:
        backbone: Its weights are frozen again afterwards.
        data: Training texts.
        task: What is to be learnt.
        pooling: How tokens become a text, where texts have labels.
        texts: How many are looked at.

    Returns:
        A tensor a parameter, by name.
    """
    model = backbone.model
    index = [i for batch in shuffled_batches(data.lengths, BATCH, 0, 0) for i in batch][:texts]
    batches = [index[start : start + BATCH] for start in range(0, len(index), BATCH)]
    centroids, classes = (None, None) if data.writes else _centroids(backbone, data, batches, pooling)
    found = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in model.named_parameters()}
    model.requires_grad_(True)
    try:
        for number, batch in enumerate(batches):
            output, mask = _run(backbone, data, batch)
            if centroids is None or classes is None:
                total, count = text_loss(
                    output, data.labels(batch).to(output.device), backbone.head or torch.nn.Identity()
                )
                loss = total / max(1, count)
            else:
                rows = _rows(output, mask, data, batch, pooling)
                loss = F.cross_entropy(10 * F.normalize(rows, dim=-1) @ centroids.T, classes[number])
            loss.backward()
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    found[name] += weight.grad.float().square()
                weight.grad = None
    finally:
        model.requires_grad_(False)
    return found


def _run(backbone: Backbone, data: Encoded, batch: list[int]) -> tuple[Tensor, Tensor]:
    inputs = {k: v.to(backbone.model.device) for k, v in data.inputs(batch, backbone.pad).items()}
    return backbone.model(**inputs).last_hidden_state, inputs["attention_mask"]


def _rows(output: Tensor, mask: Tensor, data: Encoded, batch: list[int], pooling: str) -> Tensor:
    """Return the vectors of what has a label in a batch: texts, or some of the tokens."""
    if data.token_targets is None:
        return pool(output, mask, pooling)
    return output[data.targets_of(batch).to(output.device) != NO_TARGET]


@torch.no_grad()
def _centroids(
    backbone: Backbone, data: Encoded, batches: list[list[int]], pooling: str
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the classes' mean directions, `(classes, hidden)`, and each batch's classes."""
    parts = [data.targets_of(batch) for batch in batches]
    parts = [part[part != NO_TARGET] for part in parts] if data.token_targets is not None else parts
    targets = torch.cat(parts)
    classes = targets if not targets.is_floating_point() else (targets > targets.median()).long()
    rows = torch.cat([_rows(*_run(backbone, data, batch), data, batch, pooling) for batch in batches])
    classes = classes.unique(return_inverse=True)[1].to(rows.device)
    means = torch.stack([rows[classes == c].mean(dim=0) for c in range(int(classes.max()) + 1)])
    return F.normalize(means, dim=-1), classes.split([len(part) for part in parts])
