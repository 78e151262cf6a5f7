"""Turns what `train_tinylm.sh` made into the packaged model: Llama's layout and half precision.

The small Transformer with rotary positions and standard heads is a Llama by other names, and as one it can be read by
whatever reads Llamas. Prints how far the logits moved, and the perplexity before and after.

    python benchmarks/pack_tinylm.py tinylm ordtool/models/packaged/tinylm --mantissa 7 --text data/books/sherlock.txt
"""

import argparse
import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ordtool.io.text import read_documents
from ordtool.lm.corpus import Blocks, tokenize
from ordtool.lm.model import OrdtoolLMForCausalLM

NAMES = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.": "self_attn.",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}


def to_llama(model):
    """Rename the weights; the shapes and the arithmetic are the same."""
    config = model.config
    plain = config.key_size == config.value_size == config.hidden_size // config.num_attention_heads
    if config.positions != "rope" or config.objective != "causal" or config.talking_heads or not plain:
        raise SystemExit("only a causal model with rotary positions and standard heads is a Llama")
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_word_embeddings,
            bos_token_id=None,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
    )
    state = {}
    for name, weight in model.state_dict().items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        state[name] = weight
    made.load_state_dict(state)
    return made.eval()


def round_mantissa(weight, bits):
    """Round a float16 tensor in place to so many bits of mantissa (of ten), so that a wheel's compression makes it small."""
    integers = weight.view(torch.int16).to(torch.int32) & 0xFFFF
    dropped = 10 - bits
    rounded = ((integers + (1 << dropped >> 1)) >> dropped) << dropped
    weight.copy_(
        torch.where(rounded > 0x7FFF, rounded - 0x10000, rounded).to(torch.int16).view(torch.float16)
    )


@torch.inference_mode()
def loss(model, blocks, size=16):
    """Give nats a token: every token of a block but its first."""
    total = count = 0
    for start in range(0, len(blocks), size):
        ids = torch.stack([blocks[i]["input_ids"] for i in range(start, min(start + size, len(blocks)))])
        logits = model(input_ids=ids).logits[:, :-1].float()
        total += float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        )
        count += ids[:, 1:].numel()
    return total / count


def main() -> None:
    """Convert, check and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--mantissa", type=int, default=10, help="bits of the weights' mantissas")
    parser.add_argument("--text", type=Path, required=True, help="held-out text")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.source, trust_remote_code=False)
    ours = OrdtoolLMForCausalLM.from_pretrained(args.source, trust_remote_code=False).eval()
    llama = to_llama(ours)
    tokens, size = tokenize(read_documents([args.text]), tokenizer)
    blocks = Blocks(tokens, ours.config.max_position_embeddings, "causal")
    with torch.inference_mode():
        ids = blocks[0]["input_ids"][None]
        moved = float((ours(input_ids=ids).logits - llama(input_ids=ids).logits).abs().max())
    if moved > 1e-4:
        raise SystemExit(f"the logits moved by {moved}")
    for weight in llama.half().parameters():
        round_mantissa(weight.data, args.mantissa)
    llama.save_pretrained(args.target)
    tokenizer.save_pretrained(args.target)
    file = args.target / "tokenizer_config.json"
    told = {
        k: v for k, v in json.loads(file.read_text()).items() if k not in ("is_local", "local_files_only")
    }
    file.write_text(json.dumps(told, indent=2) + "\n")
    for file in args.target.iterdir():
        file.chmod(0o644)
    packed = AutoModelForCausalLM.from_pretrained(
        args.target, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    before, after = loss(ours, blocks), loss(packed, blocks)
    facts = {
        "parameters": packed.num_parameters(), "logits_moved": moved, "perplexity": math.exp(before),
        "perplexity_float16": math.exp(after), "bits_per_byte": after * len(tokens) / size / math.log(2),
        "tokens": len(tokens), "bytes": size,
        "folder_bytes": sum(file.stat().st_size for file in args.target.iterdir()),
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
