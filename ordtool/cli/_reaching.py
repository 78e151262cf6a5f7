"""`ordtool generate --context`: a method of length extrapolation around the model that writes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ordtool.extrapolation.plan import Plan
    from ordtool.progress import Progress


def check_method(spec: str) -> None:
    """Check the names of a method before a model is loaded.

    Raises:
        UsageError: For unknown methods.
    """
    from ordtool.extrapolation.plan import parse_spec

    parse_spec(spec)


class MethodReach:
    """Extrapolates texts that pass the trained length: as for 2, 4, 8... times that length.

    A text's factor follows from its own length, not from that of its neighbours; powers of two
    keep the number of different factors small.

    Args:
        model: A transformers model, in evaluation mode.
        spec: A method, such as `rerope` or `yarn:factor=4`.
        progress: Told of warnings, once each.

    Raises:
        UsageError: For parameters that make no sense.
        OrdtoolError: If the model can't be extrapolated; the message says why.
    """

    def __init__(self, model: Any, spec: str, progress: Progress) -> None:
        from ordtool.errors import UsageError
        from ordtool.extrapolation.patch import check_plan
        from ordtool.extrapolation.rotary import find_rotary, trained_length

        self._model = model
        self._spec = spec
        self._progress = progress
        self._told: set[str] = set()
        find_rotary(model)  # says why a model has none, before anything else is missed
        found = trained_length(model.config)
        if found is None:
            raise UsageError(
                "the model's configuration doesn't say how long its training texts were",
                "leave out --context",
            )
        self.train_length = found
        self._tell(check_plan(model, self._plan(2)))

    def level(self, length: int) -> int:
        """Give 1 up to the trained length, then the power of two times it that is enough."""
        return 2 ** max(0, math.ceil(math.log2(length / self.train_length)))

    def applied(self, level: int) -> AbstractContextManager[object]:
        """Give the model with the method on, or as it is for level 1."""
        from contextlib import nullcontext

        from ordtool.extrapolation.patch import apply_plan

        return nullcontext() if level == 1 else apply_plan(self._model, self._plan(level))

    def _plan(self, level: int) -> Plan:
        from ordtool.extrapolation.plan import make_plan

        plan = make_plan(self._spec, train_length=self.train_length, length=level * self.train_length)
        self._tell(plan.warnings)
        return plan

    def _tell(self, messages: Any) -> None:
        for message in messages:
            if message not in self._told:
                self._told.add(message)
                self._progress.warn(message)
