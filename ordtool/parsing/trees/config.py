"""How distances become trees: what a parser's `config.json` says of it, under today's keys and yesterday's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ordtool.parsing.trees.builders import add_right_branching_bias
from ordtool.parsing.trees.punctuation import add_punctuation_bonus, check_punctuation_bonus

__all__ = ["DIRECTIONS", "DISTANCES", "OLD_KEYS", "TreeConfig", "current_keys"]

OLD_KEYS = {"parse_tilt": "parse_right_branching_bias", "parse_marks": "parse_punctuation_bonus"}
"""Keys of `config.json` that were renamed; `current_keys` reads both."""

DISTANCES = ("forget", "input")
"""Master gates of an ON-LSTM that measure: 1 - mean of the forget gate, or the mean of the input gate."""

DIRECTIONS = ("forward", "backward", "both")
"""Ways to read a sentence: from the left, from the right, or by two models, one of which does the one and one the other."""

_OLD_KINDS = {"joint": "hyphen"}


def current_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration with its old keys, and old kinds of punctuation, under their names of today.

    Where a key is there under both names, today's counts.
    """
    renamed = {OLD_KEYS[key]: value for key, value in config.items() if key in OLD_KEYS}
    current = renamed | {key: value for key, value in config.items() if key not in OLD_KEYS}
    bonus = current.get("parse_punctuation_bonus")
    if isinstance(bonus, Mapping):
        current["parse_punctuation_bonus"] = {_OLD_KINDS.get(kind, kind): x for kind, x in bonus.items()}
    return current


@dataclass(frozen=True)
class TreeConfig:
    """A way from the distances of a model's layers to a tree.

    Attributes:
        layer_weights: Weight of each layer's standardised distances in the mixture that makes trees; of two models that read
            in two directions, first the layers that read from the left, then those that read from the right.
        builder: `paper`, `unbiased`, `chart` or `mixed`.
        right_branching_bias: How far trees lean to the right; see `add_right_branching_bias`.
        punctuation_bonus: How far punctuation raises boundaries, by kind; see `add_punctuation_bonus`.
        distance: `forget` or `input`: the master gate whose distances they are.

    Raises:
        ValueError: For a distance that is neither.
    """

    layer_weights: tuple[float, ...] = (1.0,)
    builder: str = "paper"
    right_branching_bias: float = 0.0
    punctuation_bonus: tuple[tuple[str, float], ...] = ()
    distance: str = "forget"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(f"parse_distance is one of {', '.join(DISTANCES)}, found {self.distance!r}")

    @classmethod
    def from_model(cls, config: Mapping[str, Any]) -> TreeConfig:
        """Read what a model's configuration says, under old keys or new ones.

        `parse_layer_weights` counts, or else `parse_layer`: 1 for that layer and 0 for the others; of two models that read
        in two directions, 1 for that layer of both.

        Raises:
            KeyError: If the number of layers is missing.
            ValueError: For weights that aren't one a layer, or all zero or not finite, or a bonus that is none.
        """
        config = current_keys(config)
        own = int(config["num_hidden_layers"])
        layers = own * (2 if config.get("direction") == "both" else 1)
        if config.get("parse_layer_weights") is not None:
            weights = tuple(float(weight) for weight in config["parse_layer_weights"])
            if len(weights) != layers:
                raise ValueError(f"parse_layer_weights has {len(weights)} numbers for {layers} layers")
        else:
            chosen = min(int(config.get("parse_layer", 2)), own)
            weights = tuple(float(k % own + 1 == chosen) for k in range(layers))
        if not any(weights) or not np.isfinite(weights).all():
            raise ValueError("parse_layer and parse_layer_weights name no layer of the model")
        return cls(
            weights,
            str(config.get("parse_builder", "paper")),
            float(config.get("parse_right_branching_bias") or 0.0),
            tuple(check_punctuation_bonus(config.get("parse_punctuation_bonus") or {}).items()),
            str(config.get("parse_distance") or "forget"),
        )

    def to_model(self) -> dict[str, Any]:
        """Return the keys under which `from_model` reads this again."""
        return {
            "parse_layer": int(np.argmax(self.layer_weights)) + 1,
            "parse_layer_weights": list(self.layer_weights),
            "parse_builder": self.builder,
            "parse_right_branching_bias": self.right_branching_bias,
            "parse_punctuation_bonus": dict(self.punctuation_bonus),
            "parse_distance": self.distance,
        }

    @property
    def name(self) -> str:
        """For people, such as `layer 2, paper`."""
        layers = " + ".join(
            f"layer {k + 1}" + (f" x {weight:g}" if weight != 1 else "")
            for k, weight in enumerate(self.layer_weights)
            if weight
        )
        bias = self.right_branching_bias
        layers += " (input gate)" if self.distance == "input" else ""
        parts = [layers, self.builder, *([f"right-branching bias {bias:g}"] if bias else [])]
        return ", ".join([*parts, *(f"{kind} {weight:g}" for kind, weight in self.punctuation_bonus)])

    def add_priors(self, distances: np.ndarray, punctuation: np.ndarray) -> np.ndarray:
        """Return mixed distances `(words,)` with both priors about writing: the lean to the right, and punctuation's bonus.

        Args:
            distances: `(words,)`.
            punctuation: `(words + 1,)`, see `punctuation_between`.
        """
        leaning = add_right_branching_bias(distances, self.right_branching_bias)
        return add_punctuation_bonus(leaning, punctuation, dict(self.punctuation_bonus))
