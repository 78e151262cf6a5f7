"""`ordtool generate --context`: prompts longer than the context, against an uncached loop under the same method."""

import json

import pytest
import torch

from ordtool.errors import OrdtoolError
from ordtool.extrapolation.context_extension import RotaryContextExtension
from ordtool.extrapolation.methods import METHODS as EVERY
from ordtool.extrapolation.patch import context_extension
from ordtool.extrapolation.plan import parse_spec
from ordtool.generation.config import Decoding
from ordtool.generation.engine import TextGenerator
from ordtool.io.text import Record
from ordtool.progress import SILENT, Silent

SHORT, LONG = "the cat sat on", " ".join(["the small cat ran under a red tree and"] * 9)
LONGER = " ".join(["a dog saw the old river and then it sang"] * 17)
METHODS = ["rerope", "yarn", "leaky-rerope+logn", "self-extend", "dynamic-ntk", "lambda:window=20"]
METHODS += [
    "window",
    "pi",
    "ntk",
    "ntk-fixed",
    "ntk-mixed",
    "dynamic-yarn",
    "yarn-unscaled",
    "string",
    "dca",
    "dpe",
    "p-rope",
    "logn",
]


@pytest.fixture(scope="module")
def writer(writers):
    return TextGenerator(writers("llama"), device="cpu")


def uncached_loop(writer, ids, method, steps):
    """Greedy by definition under the method: every step reads the whole text anew."""
    ids, written = list(ids), []
    reach = 64 * 2 ** max(0, (len(ids) + steps - 1).bit_length() - 6)
    for _ in range(steps):
        with (
            torch.no_grad(),
            context_extension(writer.backend.model, method, train_length=64, length=reach, progress=SILENT),
        ):
            logits = writer.backend.model(input_ids=torch.tensor([ids + written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == 2:
            break
    return written


@pytest.mark.parametrize("method", METHODS)
def test_greedy_in_a_batch_with_a_cache_is_the_uncached_loop(writer, method):
    texts = [LONG, SHORT, LONGER, LONG[4:]]
    records = [Record("x", number, text) for number, text in enumerate(texts, start=1)]
    writer.context_extension = RotaryContextExtension(writer.backend.model, method, SILENT)
    try:
        found = list(writer.stream(records, Decoding(max_new_tokens=8)))
        alone = [next(writer.stream([record], Decoding(max_new_tokens=8)))[2] for record in records]
    finally:
        writer.context_extension = None
    assert [result for _, _, result in found] == alone
    for (_, record, result), text in zip(found, texts, strict=True):
        ids = writer.codec.tokenizer(text)["input_ids"]
        wanted = uncached_loop(writer, ids, method if text != SHORT else "none", 8)
        assert result.text == writer.codec.decode(writer.codec.before(ids), wanted), record.line


@pytest.mark.parametrize("method", ["rerope", "yarn"])
def test_models_of_train_lm_read_further_too(writers, tmp_path, method):
    from transformers import AutoTokenizer

    from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM

    torch.manual_seed(5)
    config = OrdtoolLMConfig(
        vocab_size=331, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=64, initializer_range=0.4, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    OrdtoolLMForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(writers("llama")).save_pretrained(tmp_path)
    writer = TextGenerator(tmp_path, device="cpu")
    writer.context_extension = RotaryContextExtension(writer.backend.model, method, SILENT)
    records = [Record("x", number, text) for number, text in enumerate((LONG, LONGER), start=1)]
    for _, record, result in writer.stream(records, Decoding(max_new_tokens=6)):
        ids = writer.codec.tokenizer(record.text)["input_ids"]
        wanted = uncached_loop(writer, ids, method, 6)
        assert result.text == writer.codec.decode(writer.codec.before(ids), wanted)


@pytest.mark.parametrize("options", [{"beams": 4}, {"temperature": 1.0, "n": 2}, {"choices": ("cat", "dog")}])
def test_other_ways_of_choosing_are_the_same_alone_and_in_a_batch(writer, options):
    records = [Record("x", number, text) for number, text in enumerate((LONG, LONG[4:], SHORT), start=1)]
    decoding = Decoding(max_new_tokens=5, logprobs=True, **options)
    writer.context_extension = RotaryContextExtension(writer.backend.model, "rerope", SILENT)
    try:
        together = [result for _, _, result in writer.stream(records, decoding)]
        for number, record in enumerate(records):
            (last,) = (
                r for done, _, r in writer.stream(records[: number + 1], decoding) if done == number + 1
            )
            assert last == together[number], record.line
    finally:
        writer.context_extension = None


def test_levels_follow_the_length_alone(writer):
    reach = RotaryContextExtension(writer.backend.model, "yarn", SILENT)
    assert [reach.level(n) for n in (1, 64, 65, 128, 129, 256, 257)] == [1, 1, 2, 2, 4, 4, 8]


def test_every_method_is_tried_here():
    names = {name for spec in METHODS for name, _ in parse_spec(spec)}
    # longrope needs a file, and is dynamic as dynamic-yarn is.
    assert names | {"none", "longrope"} == set(EVERY)


def test_longer_texts_than_the_most_are_refused_and_new_ones_end_there(writer):
    model = writer.backend.model
    ids = len(writer.codec.tokenizer(LONG)["input_ids"])
    writer.context_extension = RotaryContextExtension(model, "rerope", SILENT, ids + 3)
    try:
        (found,) = writer.stream([Record("x", 1, LONG)], Decoding(max_new_tokens=8))
        (three,) = writer.stream([Record("x", 1, LONG)], Decoding(max_new_tokens=3))
        assert found[2] == three[2]
        with pytest.raises(OrdtoolError, match=f"tokens, and {ids + 3} are the most that are read"):
            list(writer.stream([Record("x", 1, LONGER)], Decoding(max_new_tokens=8)))
    finally:
        writer.context_extension = None
    assert RotaryContextExtension(model, "rerope", SILENT, "3x").longest == 192


def test_methods_that_hurt_models_not_tuned_with_them_warn_once(writer):
    heard = []

    class Hearing(Silent):
        def warn(self, message):
            heard.append(message)

    for method in ("pi", "yarn", "p-rope+logn"):
        RotaryContextExtension(writer.backend.model, method, Hearing())
    assert [message.split(":")[0] for message in heard] == ["pi", "p-rope"]


def test_the_model_is_itself_again_afterwards(writer):
    model, ids = writer.backend.model, torch.arange(3, 40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with RotaryContextExtension(model, "rerope", SILENT).applied(4):
            assert not torch.equal(model(input_ids=ids).logits, before)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_the_command(run_in_process, fails_in_process, writers, tmp_path):
    model = ["-m", writers("llama"), "--device", "cpu", "--max-new-tokens", 4]
    (tmp_path / "p.txt").write_text(f"{LONG}\n{SHORT}\n")
    message = fails_in_process("generate", *model, "p.txt")
    assert "p.txt:1: the prompt has 81 tokens, and the model's context is 64" in message
    assert "--context rerope" in message
    done = run_in_process("generate", *model, "p.txt", "--context", "rerope")
    assert done.returncode == 0, done.stderr
    long, short = [json.loads(line) for line in done.stdout.splitlines()]
    plain = run_in_process("generate", *model, "-p", SHORT)
    assert json.loads(plain.stdout)["output"] == short["output"]
    assert long["finish_reason"] in ("stop", "length") and long["text"] == LONG


def test_what_cannot_be_extrapolated_is_refused(fails_in_process, writers, tmp_path):
    long = ["-p", LONG, "--device", "cpu"]
    assert "did you mean 'rerope'" in fails_in_process("generate", *long, "--context", "reropes", status=2)
    told = fails_in_process("generate", *long, "-m", writers("gpt2"), "--context", "rerope")
    assert "it learned a vector for each position" in told
    assert "name a model with a longer context" in fails_in_process("generate", *long, "-m", writers("gpt2"))
    assert "encoder-decoder" in fails_in_process(
        "generate", *long, "-m", writers("t5"), "--context", "rerope"
    )


def test_same_seed_same_bytes_in_two_processes(run_in_process, run_forked, writers, tmp_path):
    (tmp_path / "p.txt").write_text(f"{SHORT}\n{LONG}\na dog\n")
    command = ["generate", "p.txt", "-m", writers("llama"), "--device", "cpu", "--max-new-tokens", 6]
    command += ["--context", "rerope", "--temperature", 1.0, "-n", 2, "--logprobs", "--seed", 11]
    for run, name in ((run_in_process, "a"), (run_forked, "b")):
        done = run(*command, "-o", name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""
