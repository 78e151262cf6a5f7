"""Who looks at whom: the attention of a model's layer on a text, with what its mask hides, as characters or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError, UsageError

if TYPE_CHECKING:
    import torch

MOST_TOKENS = 64
_SHADES = " ░▒▓█"
_HIDDEN = "·"


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """A layer's attention on a text.

    Attributes:
        tokens: The text's tokens, as text.
        weights: `(queries, keys)`: the mean over the heads; rows add up to 1.
        visible: `(queries, keys)`: whether the mask lets the query see the key.
        layer: From 1.
        layers: How many there are.
    """

    tokens: tuple[str, ...]
    weights: NDArray[np.float32]
    visible: NDArray[np.bool_]
    layer: int
    layers: int

    @property
    def title(self) -> str:
        """What is drawn, in a line."""
        return f"attention of layer {self.layer} of {self.layers}, mean of the heads"


def attention_map(
    folder: str | Path, text: str, layer: int | None = None, device: torch.device | None = None
) -> AttentionMap:
    r"""Run a model over a text and take a layer's attention.

    It is the mean of the heads, $\frac{1}{H} \sum_h \mathrm{softmax}(Q_h K_h^\top / \sqrt{d_k} + \text{mask})$. A key is
    hidden from a query where every head gives it a weight of exactly 0, as the softmax of a mask does.

    Args:
        folder: A folder with an encoder or a causal language model.
        text: What it reads.
        layer: From 1; negative ones count from the last, -1. None: the last.
        device: Where it runs; None: the CPU.

    Raises:
        UsageError: If the layer isn't there, or the text has no tokens or more than `MOST_TOKENS`.
        OrdtoolError: If the model can't be loaded, reads sources and writes targets, or doesn't tell its attention.
    """
    import torch

    from ordtool.models.loading import load_config, load_model, load_tokenizer

    folder = Path(folder)
    config = load_config(folder)
    if config.is_encoder_decoder:
        raise OrdtoolError(f"{folder}: has an encoder and a decoder", "name an encoder or a causal model")
    ids = list(load_tokenizer(folder)(text, verbose=False)["input_ids"])
    if not 0 < len(ids) <= MOST_TOKENS:
        raise UsageError(
            f"the text has {len(ids)} tokens, and 1 to {MOST_TOKENS} can be drawn", "a sentence will do"
        )
    depth = int(config.num_hidden_layers)
    number = depth if layer is None else layer + depth + 1 if layer < 0 else layer
    if not 1 <= number <= depth:
        raise UsageError(f"`layer` {layer}: the model has {depth} layers")
    model = load_model(folder, "base", device=device, may_miss=_is_pooler, attn_implementation="eager").model
    with torch.inference_mode():
        inputs = torch.tensor([ids], device=model.device)
        found = getattr(model(input_ids=inputs, output_attentions=True), "attentions", None)
    if not found or found[number - 1] is None:
        raise OrdtoolError(f"{folder}: this kind of model ({config.model_type}) doesn't tell its attention")
    heads = found[number - 1][0].float().cpu().numpy()
    tokenizer = load_tokenizer(folder)
    tokens = tuple(tokenizer.decode([token]) for token in ids)
    return AttentionMap(tokens, heads.mean(0), (heads > 0).any(0), number, depth)


def _is_pooler(name: str) -> bool:
    return name.startswith("pooler.")


def draw_characters(found: AttentionMap) -> str:
    """Draw a map with characters: a row a query, a column a key, · where the mask hides it, darker for larger weights."""
    count = len(found.tokens)
    width = len(str(count))
    lines = [found.title, " " * (width + 1) + " ".join(str(place)[-1] for place in range(1, count + 1))]
    for place, (weights, seen) in enumerate(zip(found.weights, found.visible, strict=True), start=1):
        cells = [_shade(weight) if see else _HIDDEN for weight, see in zip(weights, seen, strict=True)]
        label = found.tokens[place - 1].strip() or repr(found.tokens[place - 1])
        lines.append(f"{place:>{width}} {' '.join(cells)}  {label}")
    bounds = "  ".join(f"{shade} from {share:.0%}" for shade, share in zip(_SHADES[1:], _BOUNDS, strict=True))
    return "\n".join([*lines, f"{_HIDDEN} hidden by the mask  {bounds}"])


_BOUNDS = (0.02, 0.1, 0.25, 0.5)


def _shade(weight: float) -> str:
    return _SHADES[sum(float(weight) >= bound for bound in _BOUNDS)]


def draw_picture(file: BinaryIO, format: str, found: AttentionMap) -> None:
    """Draw a map as a picture; the same map gives the same bytes.

    Args:
        file: Open for writing.
        format: One of `ordtool.plotting.FORMATS`.
        found: What is drawn: darker is a larger weight, and what the mask hides is grey.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rc_context

    from ordtool.plotting import SETTINGS, save_figure

    count = len(found.tokens)
    side = 2 + 0.22 * count
    with rc_context({**SETTINGS, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(side + 0.6, side), layout="constrained")
        axes.set_facecolor("0.85")  # seen where a cell is left out
        shown = axes.imshow(np.ma.array(found.weights, mask=~found.visible), cmap="Blues", vmin=0)
        labels: list[Any] = [token.replace("$", r"\$") for token in found.tokens]
        axes.set_xticks(range(count), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(count), labels, fontsize=7)
        axes.set_xlabel("key (who is seen); grey: hidden by the mask", fontsize=8)
        axes.set_ylabel("query (who looks)", fontsize=8)
        axes.set_title(found.title, fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.7).ax.tick_params(labelsize=7)
        save_figure(figure, file, format)
        pyplot.close(figure)
