"""A search for what DPE needs of a model: the effective length of each group of frequencies, and the key pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ordtool.errors import UsageError
from ordtool.extrapolation.comparison import ExtrapolateConfig
from ordtool.extrapolation.methods import Part, dpe_part
from ordtool.extrapolation.pair_products import pair_products
from ordtool.extrapolation.plan import make_plan, parse_spec
from ordtool.extrapolation.regions import KeyPairs
from ordtool.extrapolation.rotary import find_rotary
from ordtool.extrapolation.search_windows import SearchWindows, open_windows
from ordtool.extrapolation.texts import Text
from ordtool.progress import SILENT, Progress

_GROUPS = 8  # both as in the paper
_KEY_SHARE = 0.75
Lengths = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FoundGroups:
    """What came of a search.

    Attributes:
        lengths: Tokens for each group of pairs, the fastest first: the best of the windows to check by.
        key_pairs: The pairs that are changed, for each layer and head; None: all, which did better.
        losses: Nats a token on the windows to choose by: of `L/2` for every group, of the `lengths` found, and of those
            for the `key pairs` alone.
        checked: The same on the other windows.
    """

    lengths: Lengths
    key_pairs: KeyPairs | None
    losses: dict[str, float]
    checked: dict[str, float]


def search_groups(
    texts: Sequence[Text], method: str, config: ExtrapolateConfig, progress: Progress = SILENT
) -> FoundGroups:
    """Find what DPE needs of a model, for the longest length.

    Lu et al. 2025, sections 3.1 and 3.2. Each of eight groups in turn takes the longest length, half of it, a quarter
    and so on down to the window, while the others have half of the trained length; the best of each is taken. Key pairs
    are the three quarters with the largest |q_m| |k_m| of each head, at the trained length. The paper asks for needles
    in a text; here the loss decides.

    Args:
        texts: Every other window of them is to choose by, the others to check by.
        method: `dpe`, or `dpe:window=64`.
        config: Model, lengths and windows; what else it has is passed over.
        progress: Told of the trials.

    Raises:
        UsageError: If the longest length is within the trained one, or a task is asked for.
        OrdtoolError: If the texts are too short, or the model can't be extrapolated.
    """
    if [name for name, _ in parse_spec(method)] != ["dpe"]:
        raise UsageError(f"{method}: dpe is searched alone", "--tune dpe, or dpe:window=64")
    with open_windows(texts, config, progress) as windows:
        values = make_plan(
            method, train_length=windows.setting.train_length, length=windows.setting.length
        ).values
        search = _Search(windows, int(values["dpe"]["window"]))
        progress.start("searching", None, "trials")
        try:
            return search.run(progress)
        finally:
            progress.close()


class _Search:
    def __init__(self, windows: SearchWindows, window: int) -> None:
        self._windows, self._window = windows, window
        self._pairs = len(find_rotary(windows.model).inv_freq)

    def run(self, progress: Progress) -> FoundGroups:
        trained = self._windows.setting.train_length
        base: Lengths = (trained / 2,) * min(_GROUPS, self._pairs)
        known = {base: self._windows.loss(self._part(base), 0)}
        best = list(base)
        for group in range(len(base)):
            tried = {base[group]: known[base]}
            for length in self._tries():
                lengths = (*base[:group], length, *base[group + 1 :])
                if lengths not in known:
                    known[lengths] = self._windows.loss(self._part(lengths), 0)
                    progress.advance(1, loss=f"{min(known.values()):.4f}")
                tried[length] = known[lengths]
            best[group] = min(tried, key=tried.__getitem__)
        found = tuple(best)
        choices: dict[str, tuple[Lengths, KeyPairs | None]] = {
            "L/2": (base, None),
            "lengths": (found, None),
            "key pairs": (found, self._key_pairs()),
        }
        losses, checked = (
            {name: self._windows.loss(self._part(*choice), kept) for name, choice in choices.items()}
            for kept in (0, 1)
        )
        lengths, key_pairs = choices[min(checked, key=checked.__getitem__)]
        return FoundGroups(lengths, key_pairs, losses, checked)

    def _tries(self) -> list[float]:
        length, tries = float(self._windows.tokens.shape[1]), []
        while length >= self._window:
            tries.append(length)
            length /= 2
        return tries

    def _part(self, lengths: Lengths, key_pairs: KeyPairs | None = None) -> Part:
        return dpe_part(self._window, self._windows.tokens.shape[1], lengths, key_pairs)

    def _key_pairs(self) -> KeyPairs:
        model, trained = self._windows.model, self._windows.setting.train_length
        device = next(model.parameters()).device
        products = torch.stack(
            [pair_products(model, window[None, -trained:].to(device)) for window in self._windows.tokens[::2]]
        ).mean(0)
        largest = products.topk(max(1, round(_KEY_SHARE * self._pairs))).indices.sort().values
        return tuple(tuple(tuple(head) for head in layer) for layer in largest.tolist())
