"""A method of length extrapolation around a model that writes: `ordtool generate --context`."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ordtool.errors import UsageError
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.patch import apply_plan, check_plan
from ordtool.extrapolation.plan import Plan, make_plan, parse_spec, parse_tokens
from ordtool.extrapolation.rotary import find_rotary, trained_length
from ordtool.progress import Progress, Silent, warn_each


class RotaryContextExtension:
    """Extrapolates texts that pass the trained length: as for 2, 4, 8... times that length.

    A text's factor follows from its own length, not from that of its neighbours; powers of two
    keep the number of different factors small.

    Args:
        model: A transformers model, in evaluation mode.
        spec: A method, such as `rerope` or `yarn:factor=4`.
        progress: Told of warnings, once each.
        longest: Tokens of a text at most, as a number, `4k` or `8x` the trained length; None: no limit.

    Raises:
        UsageError: For parameters that make no sense.
        OrdtoolError: If the model can't be extrapolated; the message says why.
    """

    def __init__(self, model: Any, spec: str, progress: Progress, longest: str | int | None = None) -> None:
        self._model = model
        self._spec = spec
        self._heard = _WarnedOnce(progress)
        find_rotary(model)  # says why a model has none, before anything else is missed
        length = trained_length(model.config)
        if length is None:
            raise UsageError(
                "the model's configuration doesn't say how long its training texts were",
                "leave out `context`",
            )
        self.train_length = length
        self.longest = None if longest is None else parse_tokens(str(longest), length)
        cautions = [
            f"{name}: {METHODS[name].caution}" for name, _ in parse_spec(spec) if METHODS[name].caution
        ]
        warn_each(cautions, self._heard)
        warn_each(check_plan(model, self._plan(2)), self._heard)

    def level(self, length: int) -> int:
        """Return 1 up to the trained length, then the power of two times it that is enough."""
        return 2 ** max(0, math.ceil(math.log2(length / self.train_length)))

    def applied(self, level: int) -> AbstractContextManager[object]:
        """Return a context with the model with the method on, or as it is for level 1."""
        return nullcontext() if level == 1 else apply_plan(self._model, self._plan(level), self._heard)

    def _plan(self, level: int) -> Plan:
        plan = make_plan(self._spec, train_length=self.train_length, length=level * self.train_length)
        warn_each(plan.warnings, self._heard)
        return plan


class _WarnedOnce(Silent):
    """Passes warnings on, each once, though every text may give rise to it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._warned: set[str] = set()

    def warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._progress.warn(message)
