"""A model folder to a configuration, a model and a tokenizer: the one place where transformers loads anything.

Nothing is fetched, unpickled or run: `load_part` says so to transformers for every part. Whatever a library raises
about a folder comes out as one line that names the file at fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ordtool.errors import OrdtoolError
from ordtool.models.own import register_kind_of
from ordtool.runtime import importing, quiet_libraries

if TYPE_CHECKING:
    import torch

Kind = Literal["base", "causal", "seq2seq", "classifier", "tokens", "span"]

_AUTO: dict[str, str] = {
    "base": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}
_CAUSAL = ("CausalLM", "LMHeadModel")
# No checkpoint comes near; from there on, layers are counted against the weights before any is made.
_MANY_LAYERS = 1000
_CUT_SHORT = "was the copy or download cut short?"
_WHAT_A_FOLDER_IS = "a model folder has config.json, safetensors weights and a tokenizer"


class Loaded(NamedTuple):
    """A model, and what transformers found of its weights.

    Attributes:
        model: In evaluation mode.
        missing: Weights that the folder lacks and that were allowed to be missing.
        unexpected: Weights that the model has no place for.
    """

    model: Any
    missing: list[str]
    unexpected: list[str]


def quiet_transformers() -> None:
    """Keep transformers from drawing bars and warning: what there is to say about loading is said by us, in one line."""
    quiet_libraries()
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_config(folder: Path) -> Any:
    """Load a model's configuration.

    Raises:
        OrdtoolError: If it is missing, damaged, of an unknown kind, or needs code of its own.
    """
    quiet_transformers()
    from transformers import AutoConfig

    config = load_part(folder, AutoConfig, "configuration")
    names = config.architectures or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OrdtoolError(
            f"{folder / 'config.json'}: damaged: 'architectures' is no list of names", _CUT_SHORT
        )
    return config


def check_causal(folder: Path, config: Any) -> None:
    """Refuse a model that doesn't continue texts.

    Raises:
        OrdtoolError: If the configuration is of another kind of model.
    """
    names = list(config.architectures or [])
    if config.is_encoder_decoder or (names and not any(name.endswith(_CAUSAL) for name in names)):
        raise OrdtoolError(
            f"{folder}: {(names or [config.model_type])[0]} is not a causal language model",
            "name one that continues texts, such as `model=smollm2`",
        )


def load_model(
    folder: Path,
    kind: Kind | type,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    may_miss: Callable[[str], bool] = lambda name: False,
    **changes: Any,
) -> Loaded:
    """Load a model with its weights, in evaluation mode.

    Args:
        folder: A Hugging Face model folder with safetensors weights.
        kind: `base` for no head, `causal`, `seq2seq`, `classifier`, `tokens`, `span`; or a model's own class.
        dtype: Of its weights and arithmetic; float32 if None.
        device: Where it goes; the CPU if None.
        may_miss: Says which weights may be missing. What a model computes (tables of positions and sines) always may.
        **changes: To the configuration, or the whole of it as `config`.

    Raises:
        OrdtoolError: If anything about the folder is damaged, weights are missing, or it needs code of its own.
    """
    quiet_transformers()
    import torch
    import transformers

    auto: Any = getattr(transformers, _AUTO[kind]) if isinstance(kind, str) else kind
    configurations = transformers.AutoConfig if isinstance(kind, str) else auto.config_class
    _check_sizes(folder, changes.get("config") or load_part(folder, configurations, "configuration"))
    options = {"dtype": dtype or torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, info = load_part(folder, auto, "model", **options, **changes)
    missing = sorted(name for name in info["missing_keys"] if not _is_computed(model, name))
    check_complete(folder, model, [name for name in missing if not may_miss(name)])
    model = model.eval() if device is None else model.to(device).eval()
    return Loaded(model, missing, sorted(info["unexpected_keys"]))


def check_complete(folder: Path, model: Any, missing: list[str]) -> None:
    """Refuse a checkpoint that lacks weights.

    Raises:
        OrdtoolError: If there are names in `missing`.
    """
    if missing:
        raise OrdtoolError(
            f"{folder}: {len(missing)} weights are missing, {missing[0]} first, for a {type(model).__name__}",
            "the checkpoint is of another kind of model, or incomplete",
        )


def load_tokenizer(folder: Path, *, for_single_texts: bool = False) -> Any:
    """Load a model's tokenizer.

    A folder with nothing but a SentencePiece `.model` file works too.

    Args:
        folder: A model folder.
        for_single_texts: The caller encodes text by text and decodes. That is all that CPM's tokenizer can do, which is
            our own, as transformers' never cuts words and loses spaces.

    Raises:
        OrdtoolError: If there is none, it is damaged, or several could be meant.
    """
    from ordtool.models.cpm_tokenizer import CpmTokenizer, find_cpm

    vocabulary = find_cpm(folder)
    if vocabulary is not None and for_single_texts:
        return CpmTokenizer(vocabulary)
    quiet_transformers()
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        found = sorted(folder.glob("*.model"))
        if len(found) == 1:
            from ordtool.models.sentencepiece import build_tokenizer

            return build_tokenizer(found[0])
        if len(found) > 1:
            raise OrdtoolError(
                f"{folder}: several tokenizers ({', '.join(file.name for file in found)}) and no tokenizer.json",
                "leave one",
            )
    tokenizer = load_part(folder, AutoTokenizer, "tokenizer")
    if not isinstance(tokenizer.model_max_length, int | float):
        raise OrdtoolError(
            f"{folder / 'tokenizer_config.json'}: damaged: 'model_max_length' is no number", _CUT_SHORT
        )
    return tokenizer


def check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer with a larger vocabulary than its model has vectors for.

    Tokens that were added to the vocabulary are left out: many models have more of them than vectors, and never see them.

    Args:
        folder: The model folder, for the message.
        tokenizer: Of transformers.
        model: Of transformers.

    Raises:
        OrdtoolError: If there are more tokens than vectors.
    """
    inner = getattr(tokenizer, "backend_tokenizer", None)
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # a model with a table of another kind, or of another model's
        return
    if inner is None or rows is None:  # one without the tokenizers library; one that hashes characters
        return
    size = inner.get_vocab_size(with_added_tokens=False)
    if size > rows:
        raise OrdtoolError(
            f"{folder}: the tokenizer has {size:,} tokens, and the model has vectors for {rows:,}",
            "tokenizer and weights belong to different models, or one of them is damaged",
        )


def read_tokenizer_file(file: Path) -> Any:
    """Read a tokenizer.json by the tokenizers library alone.

    Raises:
        OrdtoolError: If it is missing or damaged.
    """
    from tokenizers import Tokenizer

    if not file.is_file():
        raise OrdtoolError(f"{file}: no such file", "is the model folder complete?")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise _damaged(file, error) from error


def read_tensors(file: Path, framework: Literal["pt", "numpy"] = "pt") -> dict[str, Any]:
    """Read a safetensors file.

    Raises:
        OrdtoolError: If it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise OrdtoolError(
            f"{file.parent}: no {file.name} in it", f"{_CUT_SHORT} (pickled weights are never loaded)"
        )
    try:
        with safe_open(file, framework=framework) as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _damaged(file, error) from error


def load_part(folder: Path, auto: Any, what: str, **options: Any) -> Any:
    """Load a part of a model folder by a class of transformers, never from the network and never by code of its own.

    Kinds of models that are ordtool's own are made known to the Auto classes first.

    Args:
        folder: The model folder.
        auto: A class with `from_pretrained`.
        what: The part's name, for messages.
        **options: Given to `from_pretrained`.

    Raises:
        OrdtoolError: If it can't be loaded, in one line that names the file at fault where it can be found.
    """
    quiet_transformers()
    register_kind_of(folder)
    try:
        with importing():  # transformers imports what a model needs only now
            return auto.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **options
            )
    except OrdtoolError as error:  # our own configurations check what they are given
        raise OrdtoolError(f"{folder / 'config.json'}: damaged: {error.message}", error.hint) from error
    except BaseException as error:  # libraries raise anything here, Rust's panics among them
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _explain(folder, what, error) from error


def _explain(folder: Path, what: str, error: BaseException) -> OrdtoolError:
    """Find the file at fault, now that something is; a good folder costs nothing."""
    if "trust_remote_code" in str(error):
        return OrdtoolError(
            f"{folder}: the {what} needs code of its own, and ordtool never runs code from a model",
            "name a model of a kind that transformers itself knows",
        )
    if isinstance(error, ImportError):
        return OrdtoolError(
            f"{folder}: the {what} can't be loaded: {one_line(error)}", "install the package that it names"
        )
    config = _json_at_fault(folder)
    if config is not None:
        return config
    if what == "tokenizer" and (folder / "tokenizer.json").is_file():
        try:
            read_tokenizer_file(folder / "tokenizer.json")
        except OrdtoolError as fault:
            return fault
    if what == "model":
        from safetensors import SafetensorError, safe_open

        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as fault:
                return _damaged(file, fault)
    if "does not recognize this architecture" in str(error) or "Unrecognized model" in str(error):
        return OrdtoolError(
            f"{folder}: the {what} can't be loaded: {_type_of(folder)} is a kind of model that this version of "
            "transformers doesn't know",
            "is it a text model? a newer transformers may know it",
        )
    if what == "configuration" and (folder / "config.json").is_file():
        return _damaged(folder / "config.json", error)
    if "ignore_mismatched_sizes" in str(error):  # which stands where a list of the weights would
        return OrdtoolError(
            f"{folder}: the {what} can't be loaded: the sizes in config.json are not those of the weights",
            f"the files belong to different models, or are damaged: {_CUT_SHORT}",
        )
    return OrdtoolError(f"{folder}: the {what} can't be loaded: {one_line(error)}", _hint(error))


def _hint(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "memory" in str(error):
        return "the sizes in config.json are wrong, or it needs a larger machine"
    if isinstance(error, OSError | ValueError):
        return _WHAT_A_FOLDER_IS
    return f"config.json and the other files don't fit each other: {_CUT_SHORT}"


def _json_at_fault(folder: Path) -> OrdtoolError | None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            read_json(file)
        except OrdtoolError as fault:
            return fault
    return None


def read_json(file: Path, kind: type = dict) -> Any:
    """Read a JSON file of a model's folder.

    Args:
        file: The file.
        kind: What it must hold: an object, or a list.

    Raises:
        OrdtoolError: If it is missing, damaged or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, error) from None
    if not isinstance(found, kind):
        what = "a JSON object" if kind is dict else "a list"
        raise OrdtoolError(f"{file}: damaged: {what} is expected", _CUT_SHORT)
    return found


def _type_of(folder: Path) -> str:
    return repr(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))


def _damaged(file: Path, error: BaseException) -> OrdtoolError:
    return OrdtoolError(f"{file}: damaged: {one_line(error)}", _CUT_SHORT)


def one_line(error: BaseException) -> str:
    """Give an exception's message in one line of 300 characters at most; its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _check_sizes(folder: Path, config: Any) -> None:
    """Refuse negative sizes, and more layers than there are weights: they would be made one by one, for hours."""
    sizes = config.get_text_config()
    _check_distances(folder, sizes)
    for name in ("num_hidden_layers", "num_attention_heads"):
        value = getattr(sizes, name, None)
        if isinstance(value, int) and value < 0:
            raise OrdtoolError(f"{folder / 'config.json'}: damaged: {name} is {value}", _CUT_SHORT)
    layers = getattr(sizes, "num_hidden_layers", None)
    if not isinstance(layers, int) or layers < _MANY_LAYERS:
        return
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="numpy") as tensors:
                count += len(tensors.keys())
        except (SafetensorError, OSError):
            return  # which will be found, and said, by what reads it
    if layers > count:
        raise OrdtoolError(
            f"{folder / 'config.json'}: damaged: {layers:,} layers, and there are {count:,} weights",
            _CUT_SHORT,
        )


def _check_distances(folder: Path, config: Any) -> None:
    """Refuse relative positions that T5's formula has no logarithm for."""
    buckets = getattr(config, "relative_attention_num_buckets", None)
    distance = getattr(config, "relative_attention_max_distance", None)
    if isinstance(buckets, int) and isinstance(distance, int) and not distance > buckets // 2 > 1:
        raise OrdtoolError(
            f"{folder / 'config.json'}: damaged: {buckets} relative_attention_num_buckets for distances up to {distance}",
            _CUT_SHORT,
        )


def _is_computed(model: Any, name: str) -> bool:
    """Whether a weight is one that the model computes and few checkpoints hold: position ids, frequencies, sines."""
    if name.endswith(("position_ids", "rotary_emb.inv_freq")):
        return True
    owners = dict(model.named_modules())
    return "Sinusoidal" in type(owners.get(name.rpartition(".")[0])).__name__
