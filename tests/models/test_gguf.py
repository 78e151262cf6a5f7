"""GGUF files become model folders."""

import json
from pathlib import Path

import numpy as np
import pytest

from ordtool.models.resolve import check_folder


def test_a_gguf_becomes_a_folder(tmp_path, writers):
    """A tiny Llama written as GGUF by the gguf library comes back with the same logits."""
    gguf = pytest.importorskip("gguf")
    import torch
    from transformers import AutoModelForCausalLM

    from ordtool.models.download.gguf import convert_gguf

    source = AutoModelForCausalLM.from_pretrained(writers("llama")).eval()
    write_gguf(gguf, source, writers("llama"), tmp_path / "tiny.gguf")
    folder = tmp_path / "folder"
    folder.mkdir()
    convert_gguf(tmp_path / "tiny.gguf", folder)
    check_folder(folder)
    made = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        np.testing.assert_allclose(made(ids).logits, source(ids).logits, rtol=1e-3, atol=1e-4)


def write_gguf(gguf, model, folder: Path, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokenizer["vocab"]))])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["merges"]])
    for name, index in (("bos", 1), ("eos", 2), ("pad", 0)):
        getattr(writer, f"add_{name}_token_id")(index)
    names = {"model.embed_tokens.": "token_embd.", "model.norm.": "output_norm.", "lm_head.": "output."}
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        data = tensor.numpy()
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part = rest.removesuffix(".weight")
            name = f"blk.{layer}.{parts[part]}.weight"
            if parts[part] in ("attn_q", "attn_k"):  # GGUF keeps rotary pairs side by side
                heads = config.num_attention_heads
                data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        writer.add_tensor(name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
