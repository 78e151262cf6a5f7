"""A search for LongRoPE's factors: how much slower each pair of coordinates should turn, by the loss on long texts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ordtool.errors import UsageError
from ordtool.extrapolation.comparison import ExtrapolateConfig
from ordtool.extrapolation.frequencies import longrope_rule, ntk_rule, yarn_rule
from ordtool.extrapolation.methods import Part
from ordtool.extrapolation.rotary import find_rotary
from ordtool.extrapolation.search_windows import SearchWindows, open_windows
from ordtool.extrapolation.texts import Text
from ordtool.progress import SILENT, Progress

_PARENTS, _CHILDREN = 4, 8
_STEP = 0.2  # of a mutation, in the logarithm of a factor
_MOST = 1.25  # factors go up to so many times s, as in the paper's search space
Factors = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FoundFactors:
    """What came of a search.

    Attributes:
        factors: A factor for each frequency, the fastest first: the best of the windows to check by, among the search's
            winner and what it began with.
        losses: Nats a token on the windows to choose by: of `pi`, `ntk` and `yarn`, whose factors it began with, and of
            the `search`.
        checked: The same on the other windows.
    """

    factors: Factors
    losses: dict[str, float]
    checked: dict[str, float]


def search_factors(
    texts: Sequence[Text], config: ExtrapolateConfig, trials: int = 64, progress: Progress = SILENT
) -> FoundFactors:
    """Search factors for a model and the longest length, by evolution.

    Ding et al. 2024, LongRoPE, section 3: it begins with those of position interpolation, NTK and YaRN, and keeps to
    factors that don't fall from fast pairs to slow ones. Parents are the best four; half of the children are mutated,
    half are crossed. The paper's second number, of first tokens that stay as they are, is not searched for.

    Args:
        texts: Every other window of them is to choose by, the others to check by.
        config: Model, lengths, windows and seed; what else it has is passed over.
        trials: Lists of factors that are tried.
        progress: Told of them.

    Raises:
        UsageError: If the longest length is within the trained one, or a task is asked for.
        OrdtoolError: If the texts are too short, or the model can't be extrapolated.
    """
    if trials < _PARENTS:
        raise UsageError(f"`trials` {trials} is not possible", f"{_PARENTS} or more")
    with open_windows(texts, config, progress) as windows:
        progress.start("searching", trials, "trials")
        try:
            return _Search(windows).run(trials, random.Random(config.seed), progress)
        finally:
            progress.close()


class _Search:
    def __init__(self, windows: SearchWindows) -> None:
        self._windows, self._setting = windows, windows.setting
        self._factor = windows.factor
        self._model = windows.model

    def run(self, trials: int, draw: random.Random, progress: Progress) -> FoundFactors:
        begin = self._begin()
        known = {factors: self._loss(factors, 0) for factors in begin.values()}
        losses = {name: known[factors] for name, factors in begin.items()}
        progress.advance(len(known))
        while len(known) < trials:
            parents = sorted(known, key=known.__getitem__)[:_PARENTS]
            for number in range(min(_CHILDREN, trials - len(known))):
                child = (
                    self._crossed(parents, draw) if number % 2 else self._mutated(draw.choice(parents), draw)
                )
                if child in known:
                    child = self._mutated(child, draw)
                known[child] = self._loss(child, 0)
                progress.advance(1, loss=f"{min(known.values()):.4f}")
        best = min(known, key=known.__getitem__)
        tried = {**begin, "search": best}
        checked = {name: self._loss(factors, 1) for name, factors in tried.items()}
        answer = tried[min(checked, key=checked.__getitem__)]
        return FoundFactors(answer, {**losses, "search": known[best]}, checked)

    def _begin(self) -> dict[str, Factors]:
        rotary = find_rotary(self._model)
        theta, trained, factor = rotary.inv_freq, self._setting.train_length, self._factor
        rules = {"ntk": ntk_rule(factor, trained), "yarn": yarn_rule(factor, 32.0, trained, False)}
        begin = {"pi": (factor,) * len(theta)}
        for name, rule in rules.items():
            slowed, _ = rule(rotary.config, theta)
            begin[name] = self._allowed((theta.double() / slowed.double()).tolist())
        return begin

    def _allowed(self, factors: Sequence[float]) -> Factors:
        """Keep factors within 1 and 1.25 s, and let none be below one before it."""
        allowed: list[float] = []
        for factor in factors:
            factor = min(max(factor, 1.0), _MOST * self._factor)
            allowed.append(round(max(factor, allowed[-1]) if allowed else factor, 4))
        return tuple(allowed)

    def _mutated(self, factors: Factors, draw: random.Random) -> Factors:
        share = draw.choice((0.2, 0.5, 1.0))
        return self._allowed(
            [one * math.exp(draw.gauss(0, _STEP)) if draw.random() < share else one for one in factors]
        )

    def _crossed(self, parents: Sequence[Factors], draw: random.Random) -> Factors:
        first, second = draw.sample(parents, 2)
        return self._allowed([draw.choice(pair) for pair in zip(first, second, strict=True)])

    def _loss(self, factors: Factors, part: int) -> float:
        rule = longrope_rule(factors, self._factor, self._setting.train_length)
        return self._windows.loss(Part(frequencies=rule), part)
