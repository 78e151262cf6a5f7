"""Cross-entropy of a linear layer, made a block of rows at a time.

A window of 1,120 tokens over 16,000 words has 18 million logits; kept for the backward pass and
copied into a softmax, they cost more memory traffic than the products themselves. Here each block
of rows is scored, reduced to its loss, turned into its gradient and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ordtool.parsing.onlstm.kernels_torch import numba_available

__all__ = ["linear_cross_entropy"]

BLOCK_ROWS = 256


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    matmul_dtype: torch.dtype | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Mean cross-entropy of `softmax(hidden W' + b)` against `targets`, in nats a token.

    Args:
        hidden: `(rows, features)`.
        weight: W, `(classes, features)`.
        bias: b, `(classes,)`.
        targets: Class of each row, `(rows,)`; rows with `ignore_index` don't count.
        matmul_dtype: Element type of the three matrix products; None: that of `hidden`.
        ignore_index: Marks rows to skip.

    Returns:
        A scalar; 0 when no row counts.
    """
    dtype = matmul_dtype or hidden.dtype
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, dtype, ignore_index)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and all three gradients in one pass over blocks of rows; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        ignore_index: int,
    ) -> Tensor:
        needs_grad = any(ctx.needs_input_grad[:3])
        count = int((targets != ignore_index).sum())
        narrow = weight.to(dtype)
        block_loss = _choose(hidden, bias, dtype)
        total = 0.0
        d_hidden = torch.zeros_like(hidden) if needs_grad else None
        d_weight = torch.zeros_like(weight) if needs_grad else None
        d_bias = torch.zeros_like(bias) if needs_grad else None
        for start in range(0, hidden.shape[0] if count else 0, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            block = hidden[rows].to(dtype)
            scores = torch.mm(block, narrow.t())
            loss, gradient = block_loss(scores, bias, targets[rows], ignore_index, 1 / count, d_bias)
            total += loss
            if d_hidden is not None and d_weight is not None:
                d_hidden[rows] = torch.mm(gradient, narrow)
                d_weight += torch.mm(gradient.t(), block)
        if needs_grad:
            ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return hidden.new_tensor(total / max(count, 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        # New tensors, so that a second backward pass (retain_graph) starts from the same values.
        return d_hidden * d_loss, d_weight * d_loss, d_bias * d_loss, None, None, None


def _choose(hidden: Tensor, bias: Tensor, dtype: torch.dtype) -> Callable[..., tuple[float, Tensor]]:
    """The fused loops where they can run: bfloat16 products beside float32 values on the CPU."""
    fits = (
        hidden.device.type == "cpu"
        and dtype == torch.bfloat16
        and hidden.dtype == bias.dtype == torch.float32
    )
    return _fused_block if fits and numba_available() else _torch_block


def _fused_block(
    scores: Tensor, bias: Tensor, targets: Tensor, ignore_index: int, scale: float, d_bias: Tensor | None
) -> tuple[float, Tensor]:
    from ordtool.parsing.onlstm.kernels_softmax import softmax_gradient_

    return softmax_gradient_(scores, bias, targets.contiguous(), ignore_index, scale, d_bias), scores


def _torch_block(
    scores: Tensor, bias: Tensor, targets: Tensor, ignore_index: int, scale: float, d_bias: Tensor | None
) -> tuple[float, Tensor]:
    """Summed loss of a block and, if `d_bias` is there to take its share, the gradient of the scores."""
    keep = targets != ignore_index
    picked = targets.where(keep, 0).unsqueeze(1)
    logits = scores.to(bias.dtype).add_(bias)
    top = logits.amax(dim=1, keepdim=True)
    target_logit = logits.gather(1, picked) - top
    logits.sub_(top).exp_()
    normaliser = logits.sum(dim=1, keepdim=True)
    loss = float(((normaliser.log() - target_logit).squeeze(1) * keep).sum())
    if d_bias is None:
        return loss, scores
    probabilities = logits.div_(normaliser)
    probabilities.scatter_add_(1, picked, -torch.ones_like(normaliser))
    probabilities.mul_(keep.unsqueeze(1) * scale)
    d_bias += probabilities.sum(dim=0)
    return loss, probabilities.to(scores.dtype)
