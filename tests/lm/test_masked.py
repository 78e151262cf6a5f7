"""The masked objective: what is hidden, who sees whom, and what a trained encoder can and can't do."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.text import read_documents
from ordtool.lm.config import OrdtoolLMConfig
from ordtool.lm.corpus import Blocks, Masking, tokenize, train_tokenizer
from ordtool.lm.model import OrdtoolLMForCausalLM, OrdtoolLMForMaskedLM
from ordtool.lm.training import LMTrainingConfig

SHAPE = {
    "vocab_size": 101, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
    "key_size": 6, "max_position_embeddings": 23, "initializer_range": 0.3,
}  # fmt: skip
IDS = torch.arange(2, 2 + 2 * 11).view(2, 11) * 7 % 101
TEXT = "".join(f"the {w} sat on the {v}.\n" for w in ("cat", "dog") for v in ("mat", "tree")) * 60


def build(kind=OrdtoolLMForMaskedLM, **options):
    torch.manual_seed(0)
    model = kind(OrdtoolLMConfig(**{**SHAPE, "objective": "masked", **options})).eval()
    for name, parameter in model.named_parameters():
        if "talking" in name:
            torch.nn.init.normal_(parameter, mean=0.2, std=0.5)
    return model


def test_a_seventh_is_hidden_most_of_it_by_the_mask():
    masking = Masking(mask=2, ordinary=np.arange(3, 1003))
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(3, 1003, 100))
    ids[[7, 50]] = 1  # ends of texts
    fates = np.zeros(3)
    for seed in range(400):
        read, labels = masking.hide(ids, np.random.default_rng(seed))
        chosen = labels != -100
        assert int(chosen.sum()) == 15  # 0.15 * 98, rounded
        assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(read[~chosen], ids[~chosen])
        assert not chosen[[7, 50]].any() and not (read[chosen] == 1).any()
        fates += [
            int((read[chosen] == 2).sum()),
            int(((read != ids) & (read != 2)).sum()),
            int((read[chosen] == ids[chosen]).sum()),
        ]
    assert np.abs(fates / fates.sum() - [0.8, 0.1, 0.1]).max() < 0.015
    blocks = Blocks(ids.numpy(), 20, "masked", seed=3, masking=masking)
    first = blocks[2]["input_ids"]
    assert torch.equal(first, blocks[2]["input_ids"])
    blocks.set_epoch(1)
    assert not torch.equal(first, blocks[2]["input_ids"])


@pytest.mark.parametrize("talking", [False, True])
@torch.no_grad()
def test_it_reads_both_ways(talking):
    model = build(talking_heads=talking)
    logits = model(input_ids=IDS).logits
    # A prefix model that reads a source alone is one too, whose mask is made in another way.
    source = build(OrdtoolLMForCausalLM, objective="prefix", talking_heads=talking)
    source.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits, source(input_ids=IDS, use_cache=False).logits)
    changed = IDS.clone()
    changed[0, 8] += 1
    assert (model(input_ids=changed).logits[0] != logits[0]).any(-1).all()
    # Padding on the right changes nothing.
    mask = (torch.arange(11) < torch.tensor([[11], [6]])).long()
    padded = model(input_ids=IDS, attention_mask=mask).logits
    alone = model(input_ids=IDS[1:, :6]).logits
    torch.testing.assert_close(padded[1, :6], alone[0], atol=1e-5, rtol=1e-5)
    labels = torch.full_like(IDS, -100)
    labels[0, 3], labels[1, 9] = 5, 60
    wanted = (cross_entropy(logits[0, 3], labels[0, 3]) + cross_entropy(logits[1, 9], labels[1, 9])) / 2
    torch.testing.assert_close(model(input_ids=IDS, labels=labels).loss, wanted)


def test_a_trained_encoder(run_in_process, fails_in_process, tmp_path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    done = run_in_process(
        "train", "lm", text, "--dev", text, "-o", "m", "--objective", "masked", "--vocab-size", 290,
        "--context", 16, "--layers", 1, "--hidden", 16, "--heads", 2, "--key-size", 12,
        "--talking-heads", "--steps", 60, "--batch-size", 8,
        "--learning-rate", 0.01, "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "m").eval()
    assert type(model) is OrdtoolLMForMaskedLM
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    # The dev loss is that of a fixed draw.
    tokens, _ = tokenize(read_documents([text]), tokenizer)
    blocks = Blocks(tokens, 16, "masked", 1, masking=Masking.of(tokenizer))
    losses = []
    for block in range(len(blocks)):
        item = blocks[block]
        with torch.no_grad():
            logits = model(input_ids=item["input_ids"][None]).logits[0].log_softmax(-1)
        for place, wanted in enumerate(item["labels"].tolist()):
            if wanted != -100:
                losses.append(-float(logits[place, wanted]))
    assert f"dev loss {np.mean(losses):.4f} nats a hidden token" in done.stderr
    assert np.mean(losses) < 0.5 * math.log(len(tokenizer))
    # What it can't do is said in a line, and what it can is to embed.
    said = fails_in_process("generate", "-m", "m", "-p", "the cat")
    assert "a masked language model (OrdtoolLMForMaskedLM)" in said and "does not write text" in said
    vectors = run_in_process("embed", text, "-m", "m", "-o", "v.npy", "--device", "cpu", "--threads", 1)
    assert vectors.returncode == 0, vectors.stderr
    assert np.load(tmp_path / "v.npy").shape == (240, 16)


def test_what_does_not_go_together():
    for wrong in ({"positions": "alibi"}, {"positions": "hwfa"}, {"vocab_size": 258}):
        with pytest.raises(UsageError):
            LMTrainingConfig(objective="masked", **wrong)
    with pytest.raises(ValueError, match="both ways"):
        OrdtoolLMConfig(**SHAPE, objective="masked", positions="nope")
    with pytest.raises(ValueError, match="both ways"):
        OrdtoolLMForMaskedLM(OrdtoolLMConfig(**SHAPE))
    with pytest.raises(OrdtoolError, match="no mask token"):
        Masking.of(train_tokenizer([TEXT], 260))
