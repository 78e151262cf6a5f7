"""ON-LSTM language models: configuration, layers and the causal language model.

An ordered-neuron LSTM ranks its neurons by a pair of monotone master gates; how far the
master forget gate opens at a word is read as the depth of the boundary before that word
(the syntactic distance), from which a tree is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
)
from transformers.utils import ModelOutput

from ordtool.parsing.onlstm.cross_entropy import linear_cross_entropy
from ordtool.parsing.onlstm.dropout import dropout_mask, locked_dropout, weight_dropout
from ordtool.parsing.onlstm.scan import INPUT_GATES, ordered_scan
from ordtool.parsing.trees.config import DIRECTIONS, current_keys

__all__ = ["OnlstmConfig", "OnlstmForCausalLM", "OnlstmModel", "OnlstmOutput", "State", "save_model"]

State = list[tuple[Tensor, Tensor]]
"""h and c of every layer, each `(batch, layer size)`."""


class OnlstmConfig(PreTrainedConfig):
    """Shape, dropouts and parsing defaults of an ON-LSTM language model.

    Args:
        vocab_size: Rows of the embedding table.
        embedding_size: Size of word vectors and, since the softmax is tied, of the last layer.
        hidden_size: Size of the layers before the last.
        num_hidden_layers: Number of ON-LSTM layers; sizes are `embedding, hidden, ..., hidden, embedding`.
        chunk_size: Neurons that share one master gate unit; divides every layer size.
        input_gate: Form of the master input gate: `paper` or `reversed`; see `ordered_scan`.
        direction: How it reads: `forward`, or `backward`, from the last word to the first; `both`: forward, and the
            folder of the model holds another one, `backward`, that reads the other way.
        input_dropout: Dropout of the embedded input, one mask a window (the paper's 0.5).
        layer_dropout: Dropout between layers, one mask a window (0.3).
        output_dropout: Dropout of the last layer's output, one mask a window (0.45).
        weight_dropout: Dropout of the recurrent weights, drawn once a window (0.45).
        word_dropout: Probability that all occurrences of a word are dropped from the input in a window (0.1).
        initializer_range: Embeddings start uniform in plus or minus this.
        parse_layer: Layer whose distances make trees, counted from 1 as in the paper.
        parse_layer_weights: Weights of the layers' standardised distances, one a layer, those that read backward behind the
            others; None: `parse_layer` alone.
        parse_builder: Tree builder: `paper`, `unbiased` or `chart`.
        parse_right_branching_bias: How far trees lean to the right where distances leave it open; see
            `ordtool.parsing.trees.builders`. Its old name, `parse_tilt`, is read too.
        parse_punctuation_bonus: How far punctuation raises the boundaries at which it stands; see
            `ordtool.parsing.trees.punctuation`. Its old name, `parse_marks`, is read too.
        parse_distance: `forget` or `input`: the master gate whose distances make trees.
        parse_tuned_on: Treebank on which the five settings above were chosen, with its score; None: by default.
        eos_token_id: Id of `<eos>`, which stands between sentences and pads.

    Raises:
        ValueError: An unknown input gate or direction, a chunk size that doesn't divide the layers, or weights that aren't
            one a layer.
    """

    model_type = "onlstm"

    DEFAULTS: ClassVar[dict[str, Any]] = {
        "vocab_size": 10_000,
        "embedding_size": 400,
        "hidden_size": 1150,
        "num_hidden_layers": 3,
        "chunk_size": 10,
        "input_gate": "paper",
        "direction": "forward",
        "input_dropout": 0.5,
        "layer_dropout": 0.3,
        "output_dropout": 0.45,
        "weight_dropout": 0.45,
        "word_dropout": 0.1,
        "initializer_range": 0.1,
        "parse_layer": 2,
        "parse_layer_weights": None,
        "parse_builder": "paper",
        "parse_right_branching_bias": 0.0,
        "parse_punctuation_bonus": None,
        "parse_distance": "forget",
        "parse_tuned_on": None,
    }

    def __init__(self, eos_token_id: int = 0, **kwargs: Any) -> None:
        given = current_keys(kwargs)
        settings = {name: given.pop(name, default) for name, default in self.DEFAULTS.items()}
        settings["parse_layer"] = min(settings["parse_layer"], settings["num_hidden_layers"])
        settings["parse_punctuation_bonus"] = settings["parse_punctuation_bonus"] or {}
        for name, value in settings.items():
            setattr(self, name, value)
        self._check()
        given |= {"eos_token_id": eos_token_id, "pad_token_id": eos_token_id, "tie_word_embeddings": True}
        super().__init__(**given)

    def _check(self) -> None:
        for size in (self.embedding_size, self.hidden_size):
            if self.chunk_size < 1 or size % self.chunk_size:
                raise ValueError(f"chunk_size {self.chunk_size} doesn't divide the layer size {size}")
        if self.input_gate not in INPUT_GATES:
            raise ValueError(f"input_gate must be one of {', '.join(INPUT_GATES)}, found {self.input_gate!r}")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, found {self.direction!r}")
        if self.num_hidden_layers < 1:
            raise ValueError("num_hidden_layers must be at least 1")
        weights = self.parse_layer_weights
        layers = self.num_hidden_layers * (2 if self.direction == "both" else 1)
        if weights is not None and len(weights) != layers:
            raise ValueError(f"parse_layer_weights needs {layers} numbers, found {len(weights)}")

    @property
    def layer_sizes(self) -> list[int]:
        """Sizes from the embedding to the last layer: `num_hidden_layers + 1` numbers."""
        return (
            [self.embedding_size] + [self.hidden_size] * (self.num_hidden_layers - 1) + [self.embedding_size]
        )


@dataclass
class OnlstmOutput(ModelOutput):
    """What the models return.

    Attributes:
        loss: Mean cross-entropy in nats a token, when labels were given.
        logits: Next-token scores `(batch, seq, vocab)`; absent for `OnlstmModel`.
        last_hidden_state: Output of the last layer before dropout, `(batch, seq, embedding)`.
        state: h and c of every layer after the last step.
        distances: Syntactic distances `(layers, batch, seq)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    state: State | None = None
    distances: Tensor | None = None


class OnlstmLayer(nn.Module):
    """One ON-LSTM layer; see `ordtool.parsing.onlstm.scan` for the recurrence."""

    def __init__(self, input_size: int, hidden_size: int, chunk_size: int, input_gate: str = "paper") -> None:
        """Make a layer of `hidden_size` neurons over inputs of `input_size`."""
        super().__init__()
        gates = 4 * hidden_size + 2 * (hidden_size // chunk_size)
        self.chunk_size, self.input_gate = chunk_size, input_gate
        self.weight_ih = nn.Parameter(torch.empty(gates, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates))
        self.bias_hh = nn.Parameter(torch.empty(gates))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases uniform in plus or minus 1 / sqrt(columns), as a linear layer does."""
        for weight, bias in ((self.weight_ih, self.bias_ih), (self.weight_hh, self.bias_hh)):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(
        self,
        inputs: Tensor,
        state: tuple[Tensor, Tensor],
        *,
        dropout: float = 0.0,
        matmul_dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Run over `inputs` `(seq, batch, input)`; returns outputs, the next state and distances `(seq, batch)`."""
        bias = self.bias_ih + self.bias_hh
        if matmul_dtype is None or matmul_dtype == inputs.dtype:
            projected = F.linear(inputs, self.weight_ih, bias)
        else:
            projected = F.linear(inputs.to(matmul_dtype), self.weight_ih.to(matmul_dtype)) + bias
        weight = weight_dropout(self.weight_hh, dropout, self.training, generator)
        output = ordered_scan(
            projected,
            weight,
            *state,
            self.chunk_size,
            matmul_dtype=matmul_dtype,
            input_gate=self.input_gate,
        )
        last = output.hidden_states[-1] if len(output.hidden_states) else state[0]
        return output.hidden_states, (last, output.cell), output.distances


class OnlstmPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the ON-LSTM models."""

    config_class = OnlstmConfig
    base_model_prefix = "model"
    _no_split_modules = ["OnlstmLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise parameters that a checkpoint doesn't hold."""
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -self.config.initializer_range, self.config.initializer_range)
        elif isinstance(module, OnlstmLayer):
            module.reset_parameters()
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class OnlstmModel(OnlstmPreTrainedModel):
    """Embedding and a stack of ON-LSTM layers with the paper's dropouts."""

    def __init__(self, config: OnlstmConfig) -> None:
        """Make the model with fresh weights."""
        super().__init__(config)
        sizes = config.layer_sizes
        self.embed_tokens = nn.Embedding(config.vocab_size, sizes[0])
        self.layers = nn.ModuleList(
            OnlstmLayer(sizes[k], sizes[k + 1], config.chunk_size, config.input_gate)
            for k in range(config.num_hidden_layers)
        )
        self.matmul_dtype: torch.dtype | None = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding table."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding table."""
        self.embed_tokens = value

    def zero_state(self, batch: int) -> State:
        """A state of zeros for `batch` streams."""
        weight = self.embed_tokens.weight
        return [
            (weight.new_zeros(batch, size), weight.new_zeros(batch, size))
            for size in self.config.layer_sizes[1:]
        ]

    def forward(
        self,
        input_ids: Tensor,
        state: State | None = None,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        **_: Any,
    ) -> OnlstmOutput:
        """Run over `input_ids` `(batch, seq)` from `state` (zeros when None).

        `generator` is where dropout masks are drawn from (None: torch's own).
        `attention_mask` is accepted for the sake of generic code and not needed: padding on the
        right comes after the words and can't reach them.
        """
        if attention_mask is not None and attention_mask.numel() and bool((attention_mask[:, 0] == 0).any()):
            raise ValueError("an ON-LSTM reads from the left: pad on the right")
        config = self.config
        state = self.zero_state(input_ids.shape[0]) if state is None else state
        hidden = self._embed(input_ids.t(), generator)
        states: State = []
        distances = []
        raw = hidden
        for k, layer in enumerate(self.layers):
            raw, last, distance = layer(
                hidden,
                state[k],
                dropout=config.weight_dropout,
                matmul_dtype=self.matmul_dtype,
                generator=generator,
            )
            states.append(last)
            distances.append(distance.t())
            if k + 1 < len(self.layers):
                hidden = locked_dropout(raw, config.layer_dropout, self.training, generator)
        return OnlstmOutput(
            last_hidden_state=raw.transpose(0, 1), state=states, distances=torch.stack(distances)
        )

    def _embed(self, ids: Tensor, generator: torch.Generator | None) -> Tensor:
        config = self.config
        embedded = self.embed_tokens(ids)
        if self.training and config.word_dropout > 0:
            rows = embedded.new_empty(config.vocab_size, 1)
            embedded = embedded * dropout_mask(rows, config.word_dropout, generator)[ids]
        return locked_dropout(embedded, config.input_dropout, self.training, generator)


class OnlstmForCausalLM(OnlstmPreTrainedModel):
    """ON-LSTM language model with tied softmax.

    Source: Shen et al. 2019, section 5.1; dropouts of Merity et al. 2018.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OnlstmConfig) -> None:
        """Make the model with fresh weights."""
        super().__init__(config)
        self.model = OnlstmModel(config)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The softmax layer, whose weight is the embedding table."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the softmax layer."""
        self.lm_head = value

    def use_matmul_dtype(self, dtype: torch.dtype | None) -> None:
        """Multiply matrices in `dtype` (for instance `torch.bfloat16`); weights and states keep theirs. None: off."""
        self.model.matmul_dtype = dtype

    def forward(
        self,
        input_ids: Tensor,
        state: State | None = None,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> OnlstmOutput:
        """Score the next token at every position.

        Args:
            input_ids: `(batch, seq)`.
            state: State to continue from; zeros when None.
            labels: `(batch, seq)`, usually `input_ids` itself: the shift by one is made here; -100 is skipped.
            attention_mask: Accepted and not needed; padding must be on the right.
        """
        output = self.model(input_ids, state, attention_mask)
        output.logits = self.lm_head(output.last_hidden_state)
        if labels is not None:
            scores = output.logits[:, :-1].flatten(0, 1)
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            output.loss = F.cross_entropy(scores, labels[:, 1:].flatten(), ignore_index=-100)
        return output

    def window_loss(
        self,
        input_ids: Tensor,
        targets: Tensor,
        state: State | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, OnlstmOutput, Tensor]:
        """Loss of one training window, without making all logits at once.

        Args:
            input_ids: `(batch, seq)`.
            targets: `(batch, seq)`: the token after each input token; -100 is skipped.
            state: Carried state.
            generator: Where dropout masks are drawn from; None: torch's own.

        Returns:
            Mean cross-entropy in nats a token, the stack's output, and the output after dropout
            `(seq, batch, embedding)` (for the activation penalty).
        """
        output = self.model(input_ids, state, generator=generator)
        raw = output.last_hidden_state.transpose(0, 1)
        dropped = locked_dropout(raw, self.config.output_dropout, self.training, generator)
        loss = linear_cross_entropy(
            dropped.reshape(-1, dropped.shape[-1]),
            self.lm_head.weight,
            self.lm_head.bias,
            targets.t().reshape(-1),
            matmul_dtype=self.model.matmul_dtype,
        )
        return loss, output, dropped

    @torch.no_grad()
    def syntactic_distances(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Depth of the boundary before each word, from every layer.

        The sentence is read as `<eos> words` from a zero state, without dropout; the `<eos>` that
        closes it can't change what came before and is left out. A model that reads backward is given the words in its order.

        Args:
            input_ids: Words only, `(batch, seq)`, padded on the right with anything.
            lengths: Words of each sentence, `(batch,)`.

        Returns:
            1 - mean(master forget gate), `(layers, batch, seq)`, in [0, 1]; 0 beyond a sentence's end.

        Source: Shen et al. 2019, section 5.2.
        """
        training = self.training
        self.eval()
        try:
            beyond = (
                torch.arange(input_ids.shape[1], device=input_ids.device)
                >= lengths.to(input_ids.device)[:, None]
            )
            eos = input_ids.new_full((input_ids.shape[0], 1), self.config.eos_token_id)
            words = input_ids.masked_fill(beyond, self.config.eos_token_id)
            distances = self.model(torch.cat((eos, words), dim=1)).distances
            return distances[:, :, 1:].masked_fill(beyond, 0.0)
        finally:
            self.train(training)


def save_model(
    model: OnlstmForCausalLM, tokenizer: PreTrainedTokenizer | None, folder: Path, *, half: bool = False
) -> None:
    """Write a model and its tokenizer into an existing folder.

    Args:
        model: The model; its tied softmax weight is stored once, as the embedding.
        tokenizer: Its tokenizer; None: it is another model's, whose folder has it.
        folder: Where to write.
        half: Store weights as float16. `config.json` says float32, so that they are computed with as such.
    """
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    dtype = torch.float16 if half else torch.float32
    tied = model.model.embed_tokens.weight
    tensors = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.state_dict().items()
        if parameter.data_ptr() != tied.data_ptr() or name == "model.embed_tokens.weight"
    }
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(
        (folder / "config.json").stat().st_mode
    )  # safetensors makes files that only their owner can read
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


AutoConfig.register("onlstm", OnlstmConfig, exist_ok=True)
AutoModel.register(OnlstmConfig, OnlstmModel, exist_ok=True)
AutoModelForCausalLM.register(OnlstmConfig, OnlstmForCausalLM, exist_ok=True)
