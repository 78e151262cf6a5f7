"""Encoders that write: the source is read in both directions, the target follows it in one cache."""

from __future__ import annotations

from ordtool.generation.backends.causal import CausalBackend


class UnilmBackend(CausalBackend):
    """An encoder trained under the sequence-to-sequence mask (`ordtool train seq2seq`).

    Source and target stand in one row, as a prompt and its continuation do, padded on the left;
    but the target is a text of its own, so its first word has no space before it.
    """

    continues = False
