"""Folders whose damage shows only when text is written."""

import json
import shutil

import pytest

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("kind", "file", "change", "said"),
    [
        ("t5", "config.json", {"relative_attention_max_distance": 16}, "relative_attention_num_buckets"),
        ("t5", "config.json", {"relative_attention_num_buckets": 2}, "relative_attention_num_buckets"),
        ("llama", "generation_config.json", {"eos_token_id": 10**30}, "eos_token_id is 1000000"),
        (
            "t5",
            "generation_config.json",
            {"decoder_start_token_id": -(2**63)},
            "decoder_start_token_id is -9",
        ),
        ("llama", "config.json", DEEP, "config.json: damaged"),
        ("llama", "generation_config.json", DEEP, "generation_config.json: damaged"),
        ("llama", "tokenizer_config.json", DEEP, "tokenizer_config.json: damaged"),
    ],
)
def test_it_is_one_line(kind, file, change, said, writers, tmp_path, fails_in_process):
    folder = shutil.copytree(writers(kind), tmp_path / "m")
    if isinstance(change, dict):
        change = json.dumps({**json.loads((folder / file).read_text()), **change})
    (folder / file).write_text(change)
    assert said in fails_in_process("generate", "-m", folder, "-p", "the cat", "--max-new-tokens", "2")
