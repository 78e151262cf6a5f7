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

from ordtool.parsing.onlstm.kernels_torch import numba_available, triton_fits

__all__ = ["linear_cross_entropy"]

BLOCK_ROWS = 256
# On a card a block is as large as its memory likes: scores of so many bytes, about.
_BLOCK_SCORES = 1 << 28


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
        # Nothing here waits for a card, so that a CUDA graph can hold it: numbers stay tensors there.
        on_cpu = hidden.device.type == "cpu"
        counted = (targets != ignore_index).sum().clamp(min=1)
        count = int(counted) if on_cpu else counted
        narrow = weight.to(dtype)
        block_loss = _choose(hidden, bias, dtype)
        total: float | Tensor = 0.0
        d_hidden = torch.zeros_like(hidden) if needs_grad else None
        d_weight = torch.zeros_like(weight) if needs_grad else None
        d_bias = torch.zeros_like(bias) if needs_grad else None
        size = BLOCK_ROWS if on_cpu else max(BLOCK_ROWS, _BLOCK_SCORES // len(weight))
        for start in range(0, hidden.shape[0], size):
            rows = slice(start, start + size)
            block = hidden[rows].to(dtype)
            scores = torch.mm(block, narrow.t())
            loss, gradient = block_loss(scores, bias, targets[rows], ignore_index, 1 / count, d_bias)
            total = total + (float(loss) if on_cpu else loss)
            if d_hidden is not None and d_weight is not None:
                d_hidden[rows] = torch.mm(gradient, narrow)
                d_weight += torch.mm(gradient.t(), block)
        if needs_grad:
            ctx.save_for_backward(d_hidden, d_weight, d_bias)
        mean = total / count
        return mean.to(hidden.dtype) if isinstance(mean, Tensor) else hidden.new_tensor(mean)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        # New tensors, so that a second backward pass (retain_graph) starts from the same values.
        return d_hidden * d_loss, d_weight * d_loss, d_bias * d_loss, None, None, None


_BlockLoss = Callable[..., tuple[float | Tensor, Tensor]]


def _choose(hidden: Tensor, bias: Tensor, dtype: torch.dtype) -> _BlockLoss:
    """The fused loops where they can run: on CUDA, and for bfloat16 products beside float32 values on the CPU."""
    if hidden.device.type == "cuda" and triton_fits(hidden) and bias.dtype == torch.float32:
        return _triton_block
    fits = (
        hidden.device.type == "cpu"
        and dtype == torch.bfloat16
        and hidden.dtype == bias.dtype == torch.float32
    )
    return _fused_block if fits and numba_available() else _torch_block


def _triton_block(
    scores: Tensor, bias: Tensor, targets: Tensor, ignore_index: int, scale: Tensor, d_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    from ordtool.parsing.onlstm.kernels_triton import fused_softmax_gradient_

    losses = fused_softmax_gradient_(scores, bias, targets.contiguous(), ignore_index, scale)
    if d_bias is not None:
        d_bias += scores.sum(dim=0, dtype=d_bias.dtype)
    return losses.sum(), scores


def _fused_block(
    scores: Tensor, bias: Tensor, targets: Tensor, ignore_index: int, scale: float, d_bias: Tensor | None
) -> tuple[float, Tensor]:
    from ordtool.parsing.onlstm.kernels_softmax import softmax_gradient_

    return softmax_gradient_(scores, bias, targets.contiguous(), ignore_index, scale, d_bias), scores


def _torch_block(
    scores: Tensor,
    bias: Tensor,
    targets: Tensor,
    ignore_index: int,
    scale: float | Tensor,
    d_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Summed loss of a block and, if `d_bias` is there to take its share, the gradient of the scores."""
    keep = targets != ignore_index
    picked = targets.masked_fill(~keep, 0).unsqueeze(1)
    logits = scores.to(bias.dtype).add_(bias)
    top = logits.amax(dim=1, keepdim=True)
    target_logit = logits.gather(1, picked) - top
    logits.sub_(top).exp_()
    normaliser = logits.sum(dim=1, keepdim=True)
    loss = ((normaliser.log() - target_logit).squeeze(1) * keep).sum()
    if d_bias is None:
        return loss, scores
    probabilities = logits.div_(normaliser)
    probabilities.scatter_add_(1, picked, -torch.ones_like(normaliser))
    probabilities.mul_(keep.unsqueeze(1) * scale)
    d_bias += probabilities.sum(dim=0)
    return loss, probabilities.to(scores.dtype)
