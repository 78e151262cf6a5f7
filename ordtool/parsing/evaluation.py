"""What training reports: perplexity on held-out text."""

from __future__ import annotations

import math

import torch

from ordtool.parsing.corpus import Encoded, streams
from ordtool.parsing.onlstm.model import OnlstmForCausalLM

__all__ = ["perplexity"]


@torch.no_grad()
def perplexity(
    model: OnlstmForCausalLM, encoded: Encoded, *, batch_size: int = 16, window: int = 128
) -> float:
    """Perplexity a token, `<eos>` and shape classes counted as tokens.

    Args:
        model: The language model.
        encoded: Sentences, read in their order in `batch_size` parallel streams with carried state.
        batch_size: Streams; fewer for a short text.
        window: Steps at a time; doesn't change the result.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    batch = max(1, min(batch_size, encoded.tokens // 20))
    data = streams(encoded, batch, model.config.eos_token_id)
    total, state = 0.0, None
    for start in range(0, data.steps, window):
        piece = torch.from_numpy(data.tokens[:, start : start + window + 1]).to(device)
        loss, output, _ = model.window_loss(piece[:, :-1], piece[:, 1:], state)
        state = output.state
        total += float(loss) * (piece.shape[1] - 1)
    model.train(training)
    return math.exp(min(total / data.steps, 700.0))
