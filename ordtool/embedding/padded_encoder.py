"""Hidden states of any Hugging Face encoder or causal LM, in batches padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ordtool.errors import OrdtoolError, UsageError

if TYPE_CHECKING:
    import torch

    from ordtool.embedding.batching import Batch

_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


class PaddedEncoder:
    """Runs transformers' own forward pass.

    Args:
        model: A model without head, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def hidden_states(self, batch: Batch, layers: Sequence[int]) -> list[torch.Tensor]:
        """Run a batch.

        Args:
            batch: The texts.
            layers: Which hidden states to give; 0 is the embeddings.

        Returns:
            `(tokens, hidden)` for each of `layers`, the texts one after the other.
        """
        import torch

        device = self._model.device
        lengths = torch.tensor(batch.lengths)
        longest = int(lengths.max())
        real = torch.arange(longest) < lengths[:, None]
        ids = torch.zeros(len(lengths), longest, dtype=torch.long)
        ids[real] = torch.from_numpy(batch.ids)
        inputs = {"input_ids": to_device(ids, device)}
        if not bool(real.all()):
            inputs["attention_mask"] = to_device(real.long(), device)
        last_alone = tuple(layers) == (layer_count(self._model) - 1,)
        out = self._model(**inputs, output_hidden_states=not last_alone, **self._options())
        states = [out.last_hidden_state] if last_alone else [out.hidden_states[layer] for layer in layers]
        places = to_device(real.flatten().nonzero().squeeze(1), device)
        return [state.flatten(0, 1).index_select(0, places) for state in states]

    def _options(self) -> dict[str, Any]:
        return {"use_cache": False} if hasattr(self._model.config, "use_cache") else {}


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy what was made on the host; to a card without waiting for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def layer_count(model: Any) -> int:
    """Count a model's hidden states: its layers and the embeddings."""
    config = model.config
    for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"):
        if isinstance(count := getattr(config, name, None), int):
            return count + 1
    raise OrdtoolError(f"a {config.model_type} model does not say how many layers it has")


def load_model(folder: Path, device: torch.device | None = None) -> tuple[Any, list[str]]:
    """Load a model without its head, in float32, on the CPU.

    A plain BERT that will run on a CPU is read without transformers, which takes a third of the time.

    Args:
        folder: A Hugging Face folder with safetensors weights.
        device: Where it will run; None: the CPU.

    Returns:
        The model (the encoder half of an encoder-decoder), and what to tell the user.

    Raises:
        OrdtoolError: As `ordtool.models.loading.load_model`.
    """
    from ordtool.models import loading
    from ordtool.models.bert import read_bert

    plain = read_bert(folder) if device is None or device.type == "cpu" else None
    if plain is not None:
        return plain, []
    config = loading.load_config(folder)
    model, missing, _ = loading.load_model(
        folder, "base", may_miss=lambda name: "pooler" in name, config=config
    )
    notes = _head_notes(folder, config)
    if missing:  # a pooler that isn't there is only missed by `--pooling pooler`
        model.pooler = None
    if getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
        notes.append("an encoder-decoder: the vectors are its encoder's hidden states")
    return model, notes


def _head_notes(folder: Path, config: Any) -> list[str]:
    heads = [name for name in config.architectures or [] if name.endswith(_HEADS)]
    if not heads:
        return []
    return [f"{folder} is a classifier ({heads[0]}): its head is left out, the vectors are its hidden states"]


def is_causal(model: Any) -> bool:
    """Whether a token sees only those before it."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return False
    names = " ".join(config.architectures or [])
    return (
        "CausalLM" in names or "LMHeadModel" in names or type(model).__name__ in {"LlamaModel", "GPT2Model"}
    )


def pooler_of(model: Any) -> Any:
    """Return the function from first tokens `(count, hidden)` to pooled ones.

    Raises:
        UsageError: If the model has no trained pooler.
    """
    pooler = getattr(model, "pooler", None)
    if pooler is None or not hasattr(pooler, "dense"):
        raise UsageError("the model has no trained pooler", "choose another: `pooling` mean or `pooling` cls")
    return lambda first: pooler(first[:, None])


def probe_batch(vocabulary: int, limit: int) -> Batch:
    """Make a small batch of two lengths, to compare two ways of running a model."""
    from ordtool.embedding.batching import make_batches

    generator = np.random.default_rng(0)
    lengths = [min(limit, n) for n in (7, 7, 5)]
    return make_batches([generator.integers(0, vocabulary, n).tolist() for n in lengths], 1 << 20)[0]
