"""The frozen model a ladder stands beside: its weights, its hash, and its hidden states without a graph."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.models.layers import depth, find_layers
from ordtool.models.limits import usable_context
from ordtool.runtime import use_threads
from ordtool.tuning.backbone.recorder import HiddenStateRecorder, recording

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class BackboneStates:
    """What a batch of texts left of a backbone's pass for the ladder.

    Attributes:
        hidden: `(side layers + 1, batch, seq, hidden)`: embeddings and recorded layers, each token standardised.
        last: The backbone's output `(batch, seq, hidden)`, as it is.
        mask: `(batch, seq)`, 1 for tokens.
        memory: Beside a decoder, the encoder's output, standardised: `(batch, source, hidden)`.
        memory_mask: `(batch, source)`, 1 for tokens.
    """

    hidden: Tensor
    last: Tensor
    mask: Tensor
    memory: Tensor | None = None
    memory_mask: Tensor | None = None

    def arguments(self) -> dict[str, Tensor | None]:
        """Name them as a ladder's `forward` does."""
        return {
            "states": self.hidden,
            "last": self.last,
            "attention_mask": self.mask,
            "memory": self.memory,
            "memory_mask": self.memory_mask,
        }


@dataclass
class Backbone:
    """A frozen model.

    Attributes:
        name: As it was named: a folder, a catalogue name, a hub id.
        folder: Where it is.
        model: Without its head; of an encoder-decoder that isn't to write the encoder.
        head: The map from its output to the vocabulary, of models loaded to write.
        config: The model's configuration.
        tokenizer: The model's tokenizer.
        full: The whole model, where there is a head.
        start: The token that a decoder begins with, of models that read a source and write.
    """

    name: str
    folder: Path
    model: Any
    config: Any
    tokenizer: Any
    head: nn.Module | None = None
    full: Any = None
    start: int = 0
    _hash: str | None = None
    _others: dict[torch.dtype, Backbone] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze it."""
        for part in (self.model, self.head):
            if part is not None:
                part.eval().requires_grad_(False)

    @property
    def shape(self) -> Any:
        """The configuration as it holds for the layers that the ladder stands beside."""
        return self.config

    @property
    def decodes(self) -> bool:
        """Whether it reads a source and writes a target of its own: an encoder-decoder with its head."""
        return False

    @property
    def depth(self) -> int:
        """How many layers the ladder stands beside."""
        return depth(self.shape)

    @property
    def layers(self) -> nn.ModuleList:
        """Those layers."""
        return find_layers(self.model, self.depth)

    @property
    def hash(self) -> str:
        """SHA-256 of its weight files."""
        if self._hash is None:
            self._hash = weights_hash(self.folder)
        return self._hash

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it."""
        names = " ".join(self.config.architectures or [])
        return not self.config.is_encoder_decoder and ("CausalLM" in names or "LMHeadModel" in names)

    @property
    def context(self) -> int | None:
        """How many positions it has; None for no limit."""
        return usable_context(self.config)

    @property
    def pad(self) -> int:
        """A token to pad with; masked, so any will do."""
        found = self.tokenizer.pad_token_id
        return 0 if found is None else int(found)

    def in_dtype(self, dtype: torch.dtype) -> Backbone:
        """Return this backbone with its pass in another dtype: itself, or a copy, made once; the head stays as it is.

        Args:
            dtype: Of weights and activations. Tables that positions are read from keep theirs.
        """
        if self.model.dtype == dtype:
            return self
        if dtype not in self._others:
            # Parameters that deepcopy finds here are not copied in full width first.
            cast = {
                id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False)
                for p in self.model.parameters()
            }
            model = copy.deepcopy(self.model, cast)
            self._others[dtype] = replace(self, model=model, full=None, _hash=self.hash, _others={})
        return self._others[dtype]

    def states(
        self,
        inputs: dict[str, Tensor],
        layers: Sequence[int],
        dtype: torch.dtype = torch.float16,
        **options: Any,
    ) -> BackboneStates:
        """Run a batch in inference mode and keep what the ladder reads, and nothing else.

        Args:
            inputs: `input_ids` and perhaps `attention_mask` and `token_type_ids`, each `(batch, seq)`.
            layers: The layers that have a side layer, from 1.
            dtype: Of what is kept.
            **options: Given to the model.
        """
        with recording(self.layers, layers, dtype) as recorder:
            return self._pass(inputs, layers, recorder, options)

    def side_by_side(
        self, parts: Sequence[dict[str, Tensor]], layers: Sequence[int], dtype: torch.dtype = torch.float16
    ) -> list[BackboneStates]:
        """Run several batches, each in a thread of its own, which needn't wait for others inside of each product.

        Args:
            parts: The batches, as `states` takes them.
            layers: The layers that have a side layer, from 1.
            dtype: Of what is kept.
        """
        with (
            recording(self.layers, layers, dtype) as recorder,
            use_threads(max(1, torch.get_num_threads() // len(parts))),
            ThreadPoolExecutor(len(parts)) as pool,
        ):
            return list(pool.map(lambda part: self._pass(part, layers, recorder, {}), parts))

    def _pass(
        self,
        inputs: dict[str, Tensor],
        layers: Sequence[int],
        recorder: HiddenStateRecorder,
        options: dict[str, Any],
    ) -> BackboneStates:
        with torch.inference_mode():
            last = self.model(**inputs, **(options or _no_cache(self.model))).last_hidden_state
            if self.depth in layers:
                recorder.record(self.depth, last)
            last = last.to(recorder.dtype)
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(inputs["input_ids"])
        # Made outside of inference mode from what was made inside, so autograd may keep them as inputs.
        return BackboneStates(recorder.take((0, *layers)), last.clone(), mask)


def _no_cache(model: Any) -> dict[str, Any]:
    return {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 over a folder's safetensors files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
