r"""The ladder: a narrow network beside a frozen one, and the only part that is trained.

Of the backbone's hidden states $b_0$ (embeddings), $b_l$ (after layer $l$) a linear map $D_l$ takes the width from
hidden to hidden / r. A gated ladder (Sung et al. 2022, section 3.2) is

$$h_0 = D_0 b_0, \qquad h_l = \mathrm{Block}_l(\mu_l h_{l-1} + (1 - \mu_l) D_l b_l), \qquad
\mu_l = \sigma(\alpha_l / T), \; T = 0.1, \; \alpha_l = 0 \text{ at first}$$

and an additive one (after bojone's LST-CLUE) is $h_l = \mathrm{Block}_l(h_{l-1}) + D_l b_l$, whose last addition reaches the
top without a block in between (`adds_after`; older files have $h_l = \mathrm{Block}_l(h_{l-1} + D_l b_l)$). At the top
$u = U \, \mathrm{LayerNorm}(h)$ has the backbone's width again.

Deviations: $b_l$ is brought to mean 0 and spread 1 in each token before $D_l$ (without weights), which lets one learning
rate serve models whose hidden states grow through the layers; and $u$, whose $U$ is 0 at first, is added to the
backbone's own output, so the ladder starts from what the backbone knows (`residual=False` is the paper's form).

A Block is a narrow layer of the backbone's own kind, or with `block="mlp"` a feed-forward one without attention, which sees
each token by itself: what tokens know of each other is then the backbone's alone.

Beside an encoder-decoder that writes, the ladder stands at the decoder. Its blocks attend to the encoder's output $e$,
which a map of its own makes as narrow, $D_e e$; the paper has a second ladder beside the encoder for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from ordtool.models.layers import find_layers
from ordtool.tuning.ladder.bert_side_block import attention_mask as bert_mask
from ordtool.tuning.ladder.bert_side_block import bert_side_block, has_bert_blocks
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.mixing import mix, pool
from ordtool.tuning.ladder.side_network import MlpSide, build_side, side_config, unused_names

HEAD_DROPOUT = 0.1


class _Downsample(torch.autograd.Function):
    """All $D_l$ at once, keeping the states for the backward pass in the dtype they came in (float16)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        return torch.baddbmm(bias[:, None], states.to(weight.dtype), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        (states,) = ctx.saved_tensors
        gradient = gradients[0]
        product = torch.bmm(states.to(gradient.dtype).transpose(1, 2), gradient)
        return None, product, gradient.sum(dim=1)


@dataclass
class LadderOutput(ModelOutput):
    """What a ladder says.

    Attributes:
        output: At the backbone's width, `(batch, seq, hidden)`; None where there are labels.
        logits: `(batch, classes)`; `(batch, 1)` standardised scores for regression; `(batch, seq, classes)` where tokens
            have labels; None for text tasks.
        pooled: What the logits were read from, `(batch, hidden)` or `(batch, seq, hidden)`.
    """

    output: Tensor | None = None
    logits: Tensor | None = None
    pooled: Tensor | None = None


class Ladder(PreTrainedModel):
    """The side network alone; it takes the backbone's hidden states.

    Args:
        config: What it is.
    """

    config_class = LadderConfig
    base_model_prefix = "ladder"
    main_input_name = "states"
    _supports_sdpa = True

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        backbone = config.backbone_as_config()
        count = len(config.layers)
        inner = side_config(backbone, config.reduction, count, config.dropout)
        self.hidden_size, self.width = int(backbone.hidden_size), int(inner.hidden_size)
        self.side: nn.Module = (
            MlpSide(inner, count, config.dropout)
            if config.block == "mlp"
            else build_side(inner, decoder=config.decodes)
        )
        self.down_weight = nn.Parameter(torch.empty(count + 1, self.hidden_size, self.width))
        self.down_bias = nn.Parameter(torch.zeros(count + 1, self.width))
        if config.attends_to_source:
            self.memory_weight = nn.Parameter(torch.empty(self.hidden_size, self.width))
            self.memory_bias = nn.Parameter(torch.zeros(self.width))
        self.gates = nn.Parameter(torch.zeros(count)) if config.kind == "gated" else None
        self.norm = nn.LayerNorm(self.width)
        self.up = nn.Linear(self.width, self.hidden_size)
        self.head_dropout = nn.Dropout(HEAD_DROPOUT)
        self.classifier = nn.Linear(self.hidden_size, config.num_labels) if config.labels else None
        self._adds_after = config.kind == "additive" and config.adds_after
        self._incoming: Sequence[Tensor] | None = None
        self._top: Tensor | None = None
        self._bert_blocks = has_bert_blocks(inner, self.side_layers)
        self._hook()
        self._leave_out_unused()
        self.post_init()

    @property
    def side_layers(self) -> nn.ModuleList:
        """The side network's layers."""
        return find_layers(self.side, len(self.config.layers))

    def _init_weights(self, module: nn.Module) -> None:
        """Start as the backbone alone: U is 0; D keeps a standardised token's spread."""
        if module is self:
            nn.init.normal_(self.down_weight, std=self.hidden_size**-0.5)
            nn.init.zeros_(self.down_bias)
            if self.config.attends_to_source:
                nn.init.normal_(self.memory_weight, std=self.hidden_size**-0.5)
                nn.init.zeros_(self.memory_bias)
            if self.gates is not None:
                nn.init.zeros_(self.gates)
            self.norm.reset_parameters()
            nn.init.zeros_(self.up.bias)
            if self.config.residual:
                nn.init.zeros_(self.up.weight)
            else:
                nn.init.normal_(self.up.weight, std=self.width**-0.5)
            if self.classifier is not None:
                nn.init.normal_(self.classifier.weight, std=0.02)
                nn.init.zeros_(self.classifier.bias)

    def _hook(self) -> None:
        """Let every layer of the side network take what the ladder mixes for it."""
        for index, layer in enumerate(self.side_layers):

            def enter(module: nn.Module, args: Any, kwargs: Any, index: int = index) -> Any:
                if args:
                    return (self._mix(index, args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": self._mix(index, kwargs["hidden_states"])}

            def leave(module: nn.Module, args: Any, output: Any, index: int = index) -> Any:
                self._top = self._add(index, output[0] if isinstance(output, tuple) else output)
                return (self._top, *output[1:]) if isinstance(output, tuple) else self._top

            layer.register_forward_pre_hook(enter, with_kwargs=True)
            layer.register_forward_hook(leave)

    def _leave_out_unused(self) -> None:
        names = unused_names(self.side, list(self.side_layers))
        for name, parameter in self.side.named_parameters():
            if name in names:
                parameter.requires_grad_(False)
        ignored = {f"side.{name}" for name in names}
        self._keys_to_ignore_on_save = ignored
        self._keys_to_ignore_on_load_missing = ignored

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained and saved."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _mix(self, index: int, hidden: Tensor) -> Tensor:
        assert self._incoming is not None
        below = self._incoming[0] if index == 0 else hidden
        if self._adds_after:
            return below
        beside = self._incoming[index + 1]
        return mix(below, beside, None if self.gates is None else self.gates[index])

    def _add(self, index: int, hidden: Tensor) -> Tensor:
        assert self._incoming is not None
        return hidden + self._incoming[index + 1] if self._adds_after else hidden

    def run_side(
        self,
        states: Tensor,
        attention_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Run the side network.

        Args:
            states: The backbone's, standardised: `(side layers + 1, batch, seq, hidden)`, embeddings first; float16 is kept
                as such for the backward pass.
            attention_mask: `(batch, seq)`, 1 for tokens.
            memory: Beside a decoder, the encoder's output, standardised: `(batch, source, hidden)`.
            memory_mask: `(batch, source)`, 1 for tokens.
            **options: Given to the side model (its cache, `use_cache`, `position_ids`).

        Returns:
            The normed top `(batch, seq, width)`.
        """
        rows, batch, length, hidden = states.shape
        if memory is not None and self.config.attends_to_source:
            narrow = _Downsample.apply(
                memory,
                self.memory_weight.expand(len(memory), -1, -1),
                self.memory_bias.expand(len(memory), -1),
            )
            options |= {"encoder_hidden_states": narrow, "encoder_attention_mask": memory_mask}
        down = _Downsample.apply(
            states.reshape(rows, batch * length, hidden), self.down_weight, self.down_bias
        )
        self._incoming = down.view(rows, batch, length, self.width).unbind(0)
        try:
            if self._bert_blocks and not options:
                top = self._run_bert_blocks(bert_mask(attention_mask))
            else:
                self.side(inputs_embeds=self._incoming[0], attention_mask=attention_mask, **options)
                assert self._top is not None
                top = self._top
        finally:
            self._incoming = self._top = None
        found: Tensor = self.norm(top)
        return found

    def _run_bert_blocks(self, mask: Tensor | None) -> Tensor:
        assert self._incoming is not None
        hidden = self._incoming[0]
        for index, layer in enumerate(self.side_layers):
            hidden = self._add(index, bert_side_block(layer, self._mix(index, hidden), mask))
        return hidden

    def forward(
        self,
        states: Tensor,
        last: Tensor,
        attention_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> LadderOutput:
        """Run the side network beside the backbone, and read labels off at the top.

        Args:
            states: `(side layers + 1, batch, seq, hidden)`, see `run_side`.
            last: The backbone's output, `(batch, seq, hidden)`.
            attention_mask: `(batch, seq)`, 1 for tokens, padding on the right.
            memory: See `run_side`.
            memory_mask: See `run_side`.
            **kwargs: Given to the side model.
        """
        narrow = self.run_side(states, attention_mask, memory, memory_mask, **kwargs)
        if self.classifier is None:
            output = self.up(narrow)
            if self.config.residual:
                output = output + last.to(output.dtype)
            return LadderOutput(output=output)
        # U is linear and pooling a mean, so the tokens are pooled before they become wide: the same, for less.
        how = None if self.config.by_token else self.config.pooling
        pooled = self.up(pool(narrow, attention_mask, how))
        if self.config.residual:
            pooled = pooled + pool(last.to(pooled.dtype), attention_mask, how)
        return LadderOutput(logits=self.classifier(self.head_dropout(pooled)), pooled=pooled)


AutoConfig.register(LadderConfig.model_type, LadderConfig, exist_ok=True)
AutoModel.register(LadderConfig, Ladder, exist_ok=True)
