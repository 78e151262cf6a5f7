"""The fast start: models and tokenizers with nothing unusual about them, without importing transformers.

Importing torch takes a process about two seconds on a small machine, and what transformers' models and `generate` need
as much again or twice that. A Llama (`llama.py`) with a tokenizer.json is read by torch and tokenizers alone;
tokens and texts are the same. Whatever isn't known here for certain is left to transformers: a configuration's
key, a tokenizer's option, a chat template that asks for more than the messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ordtool.errors import OrdtoolError
from ordtool.generation.backends.causal import LeftPadded
from ordtool.generation.config import Decoding
from ordtool.generation.llama.llama import Llama, read_llama
from ordtool.generation.llama.static_decode import CHECK_EVERY, StaticDecoder, is_static, rows_that_fit
from ordtool.models.cpm_tokenizer import find_cpm
from ordtool.models.limits import UNBOUNDED
from ordtool.models.loading import load_tokenizer, read_tokenizer_file
from ordtool.runtime import use_threads

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKENIZER_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
_WITHOUT_SAY = {"backend", "is_local", "local_files_only", "model_max_length", "tokenizer_class"}
_TEMPLATE_SEES = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", *_SPECIAL}
# A step in fixed shapes costs about as much as reading so many tokens, however many rows are at work.
_STATIC_STEP_COST = 2000
# Above this size transformers looks whether a known mistake in a family's tokenizers is to be mended.
_LARGE = 100_000


class FastStartTokenizer:
    """A tokenizer.json, as `PromptCodec` needs it.

    Args:
        tokenizer: From the tokenizers library.
        special: The special tokens by name (`eos_token`, ...).
        template: The chat template; None: there is none.
        whole: Loads transformers' tokenizer, for a template that asks for more than is known here.
    """

    def __init__(
        self, tokenizer: Any, special: Mapping[str, str], template: str | None, whole: Callable[[], Any]
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self.chat_template = template
        self._whole = whole
        self._render: Callable[..., str] | None = None

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def id_of(self, name: str) -> int | None:
        """Return the id of `eos_token` or another special token; None where it isn't set."""
        return self._tokenizer.token_to_id(self._special[name]) if name in self._special else None

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = False
    ) -> dict[str, list[int]]:
        """Turn a text into ids, under `input_ids`."""
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Turn ids into text."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, tokenize: bool = False, add_generation_prompt: bool
    ) -> str:
        """Write a chat as the model was taught to read it.

        Raises:
            jinja2.TemplateError: If the template refuses the chat.
        """
        if self._render is None:
            self._render = _template(self.chat_template or "") or self._by_transformers()
        return self._render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special,
        )

    def _by_transformers(self) -> Callable[..., str]:
        whole = self._whole()

        def render(*, messages: Any, add_generation_prompt: bool, **others: Any) -> str:
            return str(
                whole.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )

        return render


def _template(source: str) -> Callable[..., str] | None:
    """Compile a chat template that needs nothing but the chat and the special tokens; None for others."""
    import jinja2
    from jinja2.meta import find_undeclared_variables
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    del environment.filters["tojson"]  # transformers' own is another
    environment.globals.clear()
    environment.globals["raise_exception"] = refuse
    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdecimal())
    try:
        if version < (3, 1, 6) or find_undeclared_variables(environment.parse(source)) - _TEMPLATE_SEES:
            return None
        return environment.from_string(source).render
    except jinja2.TemplateError:
        return None


def read_tokenizer(folder: Path, whole: Callable[[], Any]) -> FastStartTokenizer | None:
    """Read a folder's tokenizer.json.

    Args:
        folder: A model folder.
        whole: Loads the same with transformers.

    Returns:
        The tokenizer; None if its options are not all known here, so that transformers should read it.
    """
    config = read_json(folder / "tokenizer_config.json")
    file = folder / "tokenizer.json"
    if config is None or config.get("tokenizer_class") not in _TOKENIZER_CLASSES or not file.is_file():
        return None
    others = set(config) - _WITHOUT_SAY - set(_SPECIAL) - {"chat_template", "clean_up_tokenization_spaces"}
    if (
        others
        or config.get("clean_up_tokenization_spaces")
        or (folder / "additional_chat_templates").exists()
    ):
        return None
    if any((folder / name).exists() for name in ("special_tokens_map.json", "added_tokens.json")):
        return None
    try:
        tokenizer = read_tokenizer_file(file)
        template = _template_of(folder, config)
    except (OrdtoolError, OSError, ValueError):  # transformers will say what is wrong
        return None
    special = {name: config[name] for name in _SPECIAL if config.get(name) is not None}
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if not all(isinstance(token, str) and token in added for token in special.values()):
        return None
    changed = tokenizer.truncation or tokenizer.padding or tokenizer.post_processor is None
    if changed or tokenizer.get_vocab_size() > _LARGE or not isinstance(template, str | None):
        return None
    return FastStartTokenizer(tokenizer, special, template, whole)


def _template_of(folder: Path, config: Mapping[str, Any]) -> Any:
    file = folder / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")


def read_json(file: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if it is missing, damaged or something else."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class FastStartBackend(LeftPadded):
    """A `Llama` in batched generation, with a greedy loop of its own.

    Args:
        model: The model.
        pad: The token that fills the left of shorter prompts, and follows the end of a text.
        context: The positions that the model was trained for; None for no limit.
        stops: The tokens that end a text.
        rows: Write in buffers of fixed shapes, so many texts at once (see `static_decode`); None: token by token.
    """

    rotary = True
    searches_beams = False

    def __init__(
        self, model: Llama, pad: int, context: int | None, stops: Sequence[int], rows: int | None = None
    ) -> None:
        super().__init__(model, pad, context, {"logits_to_keep": 1})
        self._stops = list(stops)
        self._static: StaticDecoder | None = None
        if rows is not None:
            self.batch_size, self.step_cost = rows, _STATIC_STEP_COST
            self._static = StaticDecoder(model, pad, stops)
            self.notes = self._static.notes

    @property
    def stops(self) -> list[int]:
        """The tokens that end a text."""
        return self._stops

    def write(
        self,
        inputs: Mapping[str, Tensor],
        steps: int,
        select: Callable[[Tensor, Tensor], Tensor],
        decoding: Any = None,
        stop: Callable[[Tensor, Any], Tensor] | None = None,
        stream: Any = None,
    ) -> Tensor:
        """Write token by token, as transformers' `generate` does with the same parts; see `Backend.write`.

        Args:
            inputs: `input_ids` and `attention_mask`, `(rows, columns)`, padded on the left.
            steps: Tokens to write at most.
            select: From `(rows, so far)` ids and `(rows, vocabulary)` logits to scores, the best of which is taken.
            decoding: The options; there are no beams.
            stop: Says which rows of ids have ended, beside those with a token that ends.
            stream: Its `put` is given the prompt, then each step's tokens.

        Returns:
            `(rows, columns + written)`; rows that end early are filled up with padding.
        """
        if self._static is not None and is_static(decoding):
            return self._write_static(self._static, inputs, steps, select, decoding, stop, stream)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
        stops = torch.tensor(self._stops, dtype=torch.long, device=ids.device)
        going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        if stream is not None:
            stream.put(ids)
        out = self.model(ids, mask, positions, logits_to_keep=1)
        # Where products of one row take one thread, a second would do nothing but wait for its turn.
        with use_threads(1 if len(ids) == 1 and self.model.row_alone else None):
            for step in range(steps):
                if step:
                    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
                    positions = positions[:, -1:] + 1
                    out = self.model(ids[:, -1:], mask, positions, out.cache, logits_to_keep=1)
                tokens = select(ids, out.logits[:, -1].float()).argmax(-1)
                if self._stops:
                    tokens = torch.where(going, tokens, self.pad)
                ids = torch.cat([ids, tokens[:, None]], dim=1)
                if stream is not None:
                    stream.put(tokens)
                going &= ~torch.isin(tokens, stops)
                if stop is not None:
                    going &= ~stop(ids, None)
                if not going.any():
                    break
        return ids

    def _write_static(
        self,
        static: StaticDecoder,
        inputs: Mapping[str, Tensor],
        steps: int,
        select: Any,
        decoding: Decoding,
        stop: Callable[[Tensor, Any], Tensor] | None,
        stream: Any,
    ) -> Tensor:
        """Write in buffers of fixed shapes; what follows the end of a text, its stop string too, means nothing."""
        ids = inputs["input_ids"]
        lengths = inputs["attention_mask"].sum(-1).tolist()
        prompts = [row[len(row) - length :] for row, length in zip(ids.tolist(), lengths, strict=True)]
        if stream is not None:
            stream.put(ids)

        def look(written: Tensor) -> list[bool]:
            if stream is not None:
                stream.put(written[:, -1])
            if stop is None:
                return [False] * len(written)
            ended: list[bool] = stop(torch.cat([ids, written], dim=1), None).tolist()
            return ended

        written = static.write(
            prompts,
            steps,
            decoding,
            decoding.batch_size or self.batch_size,
            select.uniform(steps) if decoding.sampling else None,
            look,
            check_every=1 if stream is not None else CHECK_EVERY,
        )
        return torch.cat([ids, written], dim=1)

    def _cache_of(self, output: Any) -> Any:
        return output.cache

    def _go_on(self, ids: Tensor, cache: Any) -> Tensor:
        return self.model(ids, cache=cache).logits


_FORCED = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)


def load_fast_start(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> tuple[FastStartBackend, Any] | None:
    """Load a model that needs nothing of transformers, with its tokenizer.

    Args:
        folder: A model folder.
        device: Where it goes: a CPU, where the arithmetic is known to be that of transformers, or a CUDA device, where
            it is written by CUDA graphs.
        dtype: Of weights and arithmetic.

    Returns:
        The backend and the tokenizer (on a GPU it may be transformers');
            None if `load_backend` should load the folder, or say what is wrong with it.
    """
    config = read_json(folder / "config.json")
    file = folder / "generation_config.json"
    defaults = read_json(file) if file.is_file() else {}
    if (
        device.type not in ("cpu", "cuda")
        or config is None
        or defaults is None
        or find_cpm(folder) is not None
    ):
        return None
    context = config.get("max_position_embeddings")
    # Without these keys other numbers hold, which transformers knows.
    if not isinstance(context, int) or context < 1 or "eos_token_id" not in config:
        return None
    if any(defaults.get(name) is not None for name in _FORCED):
        return None
    tokenizer: Any = read_tokenizer(folder, lambda: load_tokenizer(folder))
    on_gpu = device.type == "cuda"
    model = None if tokenizer is None and not on_gpu else read_llama(folder, config, device, dtype)
    if model is None:
        return None
    if tokenizer is None:  # on a GPU the graphs are worth the wait for transformers' own
        tokenizer = load_tokenizer(folder, for_single_texts=True)
    try:
        stops = _ids(defaults.get("eos_token_id"), config["eos_token_id"], _id_of(tokenizer, "eos_token"))
        pads = _ids(_id_of(tokenizer, "pad_token"), defaults.get("pad_token_id"), config.get("pad_token_id"))
    except (TypeError, ValueError):  # no numbers
        return None
    pad = [*pads, *stops, 0][0]
    limit = context if context < UNBOUNDED else None
    rows = rows_that_fit(model, limit) if on_gpu else None
    return FastStartBackend(model, pad, limit, stops, rows), tokenizer


def _id_of(tokenizer: Any, name: str) -> int | None:
    own = isinstance(tokenizer, FastStartTokenizer)
    found: int | None = tokenizer.id_of(name) if own else getattr(tokenizer, f"{name}_id")
    return found


def _ids(*values: Any) -> list[int]:
    """Return the first that is set, as a list.

    Raises:
        ValueError: If it is no id, nor several.
    """
    for value in values:
        if value is not None:
            found = [int(v) for v in value] if isinstance(value, list) else [int(value)]
            if not all(0 <= one < 2**31 for one in found):
                raise ValueError(f"no id: {found}")
            return found
    return []
