"""CPM-LM's original checkpoint, as Megatron saved it, to a Hugging Face GPT-2 folder.

The checkpoint is a folder with a file for each of the machines that trained it,

    [latest_checkpointed_iteration.txt]  [80000/]  mp_rank_00_model_states.pt  mp_rank_01_model_states.pt

each a dictionary whose `module` has, for rank r of p and layer i (h hidden, v pieces):

    word_embeddings.weight        (v/p, h)            rows joined
    position_embeddings.weight    (context, h)        the same in all
    transformer.layers.i.
      attention.query_key_value   (3h/p, h), (3h/p,)  q, k and v of the rank's heads: thirds joined one by one
      mlp.dense_h_to_4h           (4h/p, h), (4h/p,)  rows joined
      attention.dense             (h, h/p), (h,)      columns joined, the bias the same in all
      mlp.dense_4h_to_h           (h, 4h/p), (h,)     likewise
      input_layernorm, post_attention_layernorm, and transformer.final_layernorm: the same in all

GPT-2's layers in transformers keep their matrices transposed, so weights of linear layers are.
The activation is GELU's tanh form, norms have an epsilon of 1e-5, the embedding is the softmax layer too.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.progress import SILENT, Progress

_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_LATEST = "latest_checkpointed_iteration.txt"
_SHARD = 2**30
_HEAD_SIZE = 80  # 2,560 in 32 heads

_OUTER = {
    "word_embeddings.weight": "transformer.wte.weight",
    "position_embeddings.weight": "transformer.wpe.weight",
    "transformer.final_layernorm.weight": "transformer.ln_f.weight",
    "transformer.final_layernorm.bias": "transformer.ln_f.bias",
}
_INNER = {
    "input_layernorm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.dense": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.dense_h_to_4h": "mlp.c_fc",
    "mlp.dense_4h_to_h": "mlp.c_proj",
}
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)\.(weight|bias)")


def convert_cpm(
    checkpoint: str | Path,
    vocabulary: str | Path,
    output: str | Path,
    *,
    heads: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Convert an original checkpoint of CPM to a folder that `ordtool generate` and transformers load.

    The weights keep their dtype. A layer at a time is in memory, where the files are torch's zip format.

    Args:
        checkpoint: The folder described in this module, or the one inside it.
        vocabulary: CPM's sentencepiece model, `chinese_vocab.model`.
        output: The folder to make.
        heads: Attention heads, which the weights don't tell; None: a head for each 80 hidden.
        force: Replace an existing folder.
        progress: Advanced by weights.

    Returns:
        The output folder.

    Raises:
        OrdtoolError: If files are missing, hold something else than weights, or don't fit together.
    """
    check_directory(output, force=force)
    special = _special(vocabulary)
    files = find_ranks(Path(checkpoint))
    ranks = [_read(file) for file in files]
    for file, rank in zip(files[1:], ranks[1:], strict=True):
        if rank.keys() != ranks[0].keys():
            raise OrdtoolError(
                f"{file}: other weights than in {files[0].name}", "are they of one checkpoint?"
            )
    config = {**_config(ranks, files[0], heads), **special}
    progress.start("converting", len(ranks[0]), "weights")
    with atomic_directory(output, force=force) as folder:
        _save(_converted(ranks, files[0], progress), folder)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(vocabulary, folder / "chinese_vocab.model")
    progress.close()
    return Path(output)


def _special(vocabulary: str | Path) -> dict[str, int]:
    """Find the pieces that end and fill a text."""
    from ordtool.models.sentencepiece import read_model

    if not Path(vocabulary).is_file():
        raise OrdtoolError(f"{vocabulary}: no such file", "CPM's vocabulary is chinese_vocab.model")
    places = {piece: number for number, (piece, _, _) in enumerate(read_model(vocabulary).pieces)}
    wanted = {"bos_token_id": "<s>", "eos_token_id": "<eod>", "pad_token_id": "<pad>"}
    for piece in wanted.values():
        if piece not in places:
            raise OrdtoolError(f"{vocabulary}: {piece} is not in it", "is it CPM's vocabulary?")
    return {name: places[piece] for name, piece in wanted.items()}


def find_ranks(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint, rank 0 first.

    Raises:
        OrdtoolError: If there are none, or one is missing.
    """
    folder = checkpoint
    if (checkpoint / _LATEST).is_file():
        folder = checkpoint / (checkpoint / _LATEST).read_text(encoding="utf-8").strip()
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        if match := _RANK.fullmatch(file.name):
            found[int(match[1])] = file
    if not found:
        raise OrdtoolError(
            f"{checkpoint}: no mp_rank_00_model_states.pt in it", "name the folder of CPM's checkpoint"
        )
    for rank in range(max(found) + 1):
        if rank not in found:
            raise OrdtoolError(f"{folder}: mp_rank_{rank:02d}_model_states.pt is missing")
    return [found[rank] for rank in sorted(found)]


def _read(file: Path) -> dict[str, Any]:
    """Read the weights of a rank without running anything that the file brings."""
    import zipfile

    import numpy as np
    import torch

    # Beside the weights the files keep the states of random generators, which are numpy arrays.
    rebuild: Any = np.ndarray.__reduce__(np.zeros(1))[0]
    harmless = [rebuild, (rebuild, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype]
    harmless += [type(np.dtype(np.uint32)), type(np.dtype(np.int64)), type(np.dtype(np.float64))]
    try:
        with torch.serialization.safe_globals(harmless):
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # whatever a damaged or foreign file makes torch's reader say
        raise OrdtoolError(
            f"{file}: can't be read as weights alone: {' '.join(str(error).split())[:160]}",
            "where you trust the file, save its 'module' alone: torch.save({'module': checkpoint['module']}, ...)",
        ) from error
    module = loaded.get("module") if isinstance(loaded, dict) else None
    if not isinstance(module, dict) or not all(isinstance(w, torch.Tensor) for w in module.values()):
        raise OrdtoolError(f"{file}: has no weights under 'module'", "is it a checkpoint of CPM?")
    return {name.removeprefix("module."): weight for name, weight in module.items()}


def _config(ranks: Sequence[Mapping[str, Any]], file: Path, heads: int | None) -> dict[str, Any]:
    first = ranks[0]
    for name in _OUTER:
        if name not in first:
            raise OrdtoolError(f"{file}: {name} is missing", "is it a checkpoint of CPM?")
    layers = {int(match[1]) for name in first if (match := _LAYER.fullmatch(name))}
    if layers != set(range(len(layers))) or not layers:
        raise OrdtoolError(f"{file}: its layers are not numbered from 0 without gaps")
    context, hidden = first["position_embeddings.weight"].shape
    heads = heads or hidden // _HEAD_SIZE
    if not heads or hidden % heads or heads % len(ranks):
        raise OrdtoolError(
            f"{file}: {hidden} hidden don't make {heads} heads on {len(ranks)} machines", "give `heads`"
        )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": sum(len(rank["word_embeddings.weight"]) for rank in ranks),
        "n_positions": context,
        "n_embd": hidden,
        "n_layer": len(layers),
        "n_head": heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "dtype": str(first["word_embeddings.weight"].dtype).removeprefix("torch."),
    }


def _converted(
    ranks: Sequence[Mapping[str, Any]], file: Path, progress: Progress
) -> Iterator[tuple[str, Any]]:
    """Yield GPT-2's names and weights, the ranks joined."""
    for name in ranks[0]:
        match = _LAYER.fullmatch(name)
        inner = _INNER.get(match[2]) if match else None
        if name not in _OUTER and inner is None:
            raise OrdtoolError(f"{file}: no GPT-2 has the weight {name}", "is it a checkpoint of CPM?")
        weight = join_ranks(name, [rank[name] for rank in ranks])
        if match and weight.ndim == 2:
            weight = weight.T
        yield (
            _OUTER[name] if match is None else f"transformer.h.{match[1]}.{inner}.{match[3]}",
            weight.contiguous(),
        )
        progress.advance(1)


def join_ranks(name: str, parts: Sequence[Any]) -> Any:
    """Join one weight's parts.

    Args:
        name: Its name in the checkpoint.
        parts: A part of each rank, or copies of the whole.

    Returns:
        The weight, as a linear layer has it: (out, in).
    """
    import torch

    if "query_key_value" in name:
        thirds = [part.chunk(3) for part in parts]
        return torch.cat([ranks[which] for which in range(3) for ranks in thirds])
    if "word_embeddings" in name or "dense_h_to_4h" in name:
        return torch.cat(list(parts))
    if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
        return torch.cat(list(parts), dim=1)
    return parts[0]


def _save(weights: Iterator[tuple[str, Any]], folder: Path) -> None:
    """Write safetensors of at most about a gigabyte each, and their index."""
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    held: dict[str, Any] = {}
    total = 0

    def flush() -> None:
        if held:
            save_file(held, folder / f"part-{len(shards) + 1}.safetensors", metadata={"format": "pt"})
            shards.append(list(held))
            held.clear()

    for name, weight in weights:
        size = weight.numel() * weight.element_size()
        if sum(w.numel() * w.element_size() for w in held.values()) + size > _SHARD:
            flush()
        held[name] = weight
        total += size
    flush()
    if len(shards) == 1:
        (folder / "part-1.safetensors").rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number}.safetensors").rename(folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
