"""Windows of a text for the search of a file that a method needs: to choose by, and to check by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.comparison import Comparison, ExtrapolateConfig
from ordtool.extrapolation.evaluation import score_last
from ordtool.extrapolation.methods import Part, Setting
from ordtool.extrapolation.patch import apply_plan
from ordtool.extrapolation.plan import Plan
from ordtool.extrapolation.texts import Text
from ordtool.progress import SILENT, Progress
from ordtool.runtime import use_threads


@dataclass(frozen=True, slots=True)
class SearchWindows:
    """A model and what it reads.

    Attributes:
        model: The model.
        tokens: `(windows, length)`, of the longest length; every other one is to choose by, the others to check by.
        setting: The trained length, and the longest.
        scored: How many of the last tokens count.
    """

    model: Any
    tokens: torch.Tensor
    setting: Setting
    scored: int

    @property
    def factor(self) -> float:
        """Return the longest length over the trained one."""
        return self.tokens.shape[1] / self.setting.train_length

    def loss(self, part: Part, kept: int) -> float:
        """Return nats a token under a method, of the windows to choose by (0) or to check by (1)."""
        plan = Plan("searched", part, {}, self.setting)
        device = next(self.model.parameters()).device
        with apply_plan(self.model, plan, SILENT):
            losses = [
                score_last(self.model, window[None].to(device), self.scored)[0].double().mean()
                for window in self.tokens[kept::2]
            ]
        return float(torch.stack(losses).mean())


@contextmanager
def open_windows(
    texts: Sequence[Text], config: ExtrapolateConfig, progress: Progress
) -> Iterator[SearchWindows]:
    """Load the model and cut the texts for a search, with the threads that were asked for.

    Raises:
        UsageError: If the longest length is within the trained one, or a task is asked for.
        OrdtoolError: If the texts are too short, or the model can't be extrapolated.
    """
    if config.task is not None or config.bins is not None:
        raise UsageError("factors are searched by the loss", "leave out `task` and `bins`")
    comparison = Comparison(replace(config, methods=("ntk",)), texts, progress)
    grid, windows = comparison.grid, comparison.windows
    length = max(grid.lengths)
    if length <= grid.train_length:
        raise UsageError(
            f"the longest length is {length:,}, and the model was trained at {grid.train_length:,}",
            "ask for a longer one: factors are for lengths beyond",
        )
    if windows is None or len(windows) < 2:
        raise OrdtoolError(
            f"the text has one window of {length:,} tokens, and half of them is to check by",
            "give a longer text, or ask for shorter lengths",
        )
    with use_threads(config.threads):
        setting = Setting(grid.train_length, length)
        yield SearchWindows(comparison.load(), windows[:, -length:], setting, grid.scored(length))
