"""Encoder-decoders: the ladder beside the decoder, against transformers' own pass, and what it learns to write."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ordtool.errors import OrdtoolError
from ordtool.models.releases import cache_argument, cache_of
from ordtool.tuning.cache import CachedStates, LiveStates, build_cache, cache_bytes, cache_key
from ordtool.tuning.config import LadderTrainingConfig, ScheduleConfig
from ordtool.tuning.data import Example
from ordtool.tuning.dataset import LadderData
from ordtool.tuning.encoding import encode_sources
from ordtool.tuning.fisher import squared_gradients
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.ladder_models import LadderForConditionalGeneration
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.methods import LadderTuning, make_baseline
from ordtool.tuning.pruning import initialise
from ordtool.tuning.training import train_ladder

KINDS = ("t5", "bart", "marian")
DEPTHS = {"t5": 2, "bart": 2, "marian": 1}
EXAMPLES = [("cat dog", "dog"), ("a bird sang near the river", "tree sat"), ("tree", "red sea ran on")]


@pytest.fixture
def backbone(writers):
    return lambda kind: load_backbone(str(writers(kind)), writes=True)


def encoded(backbone):
    rows = [Example("x", source, None, target) for source, target in EXAMPLES]
    return encode_sources(backbone.tokenizer, rows, 30, backbone.start)


def build(backbone, spread=0.3, **options):
    torch.manual_seed(3)
    shape = {"reduction": 2, "layers": range(1, backbone.depth + 1), "task": "seq2seq"}
    ladder = Ladder(LadderConfig(backbone_config=backbone.config.to_dict(), **{**shape, **options}))
    for parameter in (
        ladder.trained_parameters() if spread else []
    ):  # U is 0 at first, and hides what is below
        torch.nn.init.normal_(parameter, std=spread)
    return ladder.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_head_are_those_of_the_whole_model(kind, backbone):
    found = backbone(kind)
    assert found.depth == DEPTHS[kind] and found.decodes and not found.causal
    if found.head.bias is not None:
        found.head.bias += torch.randn_like(found.head.bias)  # the whole model's own: it is zero at first
    data = encoded(found)
    inputs = data.inputs([0, 1, 2], found.pad)
    layers = list(range(1, found.depth + 1))
    states = found.states(inputs, layers, torch.float32)
    with torch.no_grad():
        theirs = found.full(**inputs, output_hidden_states=True)
    real, source = states.mask.bool(), states.memory_mask.bool()
    for place in (0, *layers):
        wanted = theirs.decoder_hidden_states[place]
        wanted = F.layer_norm(wanted, wanted.shape[-1:])
        torch.testing.assert_close(states.hidden[place][real], wanted[real], rtol=1e-4, atol=1e-4)
    wanted = F.layer_norm(theirs.encoder_last_hidden_state, (24,))
    torch.testing.assert_close(states.memory[source], wanted[source], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.head(states.last)[real], theirs.logits[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_predicted_from_the_start_token_on(kind, backbone):
    found = backbone(kind)
    data = encoded(found)
    inputs, labels = data.inputs([0, 1, 2], found.pad), data.labels([0, 1, 2])
    for row, (source, target) in enumerate(EXAMPLES):
        wanted = [*found.tokenizer(target, add_special_tokens=False)["input_ids"], 2]
        assert labels[row][labels[row] != -100].tolist() == wanted
        assert inputs["decoder_input_ids"][row, : len(wanted) + 1].tolist() == [found.start, *wanted]
        length = int(inputs["attention_mask"][row].sum())
        assert inputs["input_ids"][row, :length].tolist() == found.tokenizer(source)["input_ids"]
    # The same loss as transformers gives for these labels, when the ladder says nothing yet.
    ladder = build(found, spread=0)
    source = LiveStates(found, data, ladder.config.layers, torch.float32)
    learner = LadderTuning(ladder, "seq2seq", data, data, source, source, found.head)
    with torch.no_grad():
        theirs = float(found.full(**inputs, labels=labels).loss)
        assert float(learner.loss([0, 1, 2])) == pytest.approx(theirs, rel=1e-4)
    assert learner.measure().value == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["gated", "additive"])
def test_a_batch_is_its_rows(kind, shape, backbone):
    found = backbone(kind)
    ladder = build(found, kind=shape)
    data = encoded(found)

    def run(index):
        states = found.states(data.inputs(index, found.pad), ladder.config.layers, torch.float32)
        return ladder(**states.arguments()).output

    with torch.no_grad():
        together = run([0, 1, 2])
        for row in range(3):
            alone = run([row])[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_and_no_activation_of_the_backbone(kind, backbone):
    found = backbone(kind)
    ladder = build(found).train()
    model = LadderForConditionalGeneration(found.config, ladder, found)
    data = encoded(found)
    kept: list[torch.Tensor] = []
    inside: list[bool] = []
    hooks = [
        module.register_forward_hook(lambda *_: inside.append(torch.is_inference_mode_enabled()))
        for module in (found.model.encoder, found.model.decoder)
    ]

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = found.states(data.inputs([0, 1, 2], found.pad), ladder.config.layers)
        output = ladder(**states.arguments()).output
    model(**data.inputs([0, 1, 2], found.pad), labels=data.labels([0, 1, 2])).loss.backward()
    for hook in hooks:
        hook.remove()
    assert inside == [True] * 4
    every = [*found.full.parameters(), *found.model.parameters(), *found.head.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in every)
    # Each of the ladder's weights moves the loss, those of its attention to the source among them.
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in (ladder.memory_weight, ladder.up.weight)
    )
    assert all(p.grad is not None for p in ladder.trained_parameters())
    # As wide as the backbone are the states for the side layers and the source's, in float16, and the ladder's output.
    assert output.requires_grad and states.hidden.dtype == states.memory.dtype == torch.float16
    frozen = {p.data_ptr() for p in every}
    assert not frozen & {t.data_ptr() for t in kept}
    halves = {t.data_ptr(): t.numel() for t in kept if t.dtype == torch.float16}
    assert sorted(halves.values()) == sorted([states.hidden.numel(), states.memory.numel()])


@pytest.mark.parametrize("kind", KINDS)
def test_cached_states_are_the_backbones(kind, backbone, tmp_path):
    found = backbone(kind)
    data = encoded(found)
    folder = build_cache(found, data, [1], tmp_path)
    size = sum((folder / name).stat().st_size - 128 for name in ("states.npy", "sources.npy"))
    assert size == cache_bytes(found, data, [1])
    index = [2, 0, 1]
    cached = CachedStates(folder, torch.device("cpu")).batch(index)
    live = LiveStates(found, data, [1], torch.float32).batch(index)
    assert torch.equal(cached.mask, live.mask) and torch.equal(cached.memory_mask, live.memory_mask)
    real, source = live.mask.bool(), live.memory_mask.bool()
    near = {"rtol": 2e-3, "atol": 2e-3}
    for place in range(2):
        torch.testing.assert_close(cached.hidden[place][real].float(), live.hidden[place][real], **near)
    torch.testing.assert_close(cached.last[real].float(), live.last[real], **near)
    torch.testing.assert_close(cached.memory[source].float(), live.memory[source], **near)
    # The same targets for another source have states of their own.
    other = encode_sources(
        found.tokenizer, [Example("x", "near", None, target) for _, target in EXAMPLES], 30, found.start
    )
    assert cache_key(found, other, [1]) != cache_key(found, data, [1])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_pruned_is_the_decoder_itself(kind, backbone):
    found = backbone(kind)
    ladder = build(found, reduction=1)
    assert initialise(ladder, found, "magnitude") == []
    theirs = dict(found.model.decoder.named_parameters())
    names = [name for name, parameter in ladder.side.named_parameters() if parameter.requires_grad]
    assert any("encoder_attn" in name or "EncDecAttention" in name for name in names)
    for name in names:
        torch.testing.assert_close(ladder.side.get_parameter(name), theirs[name])
    assert torch.equal(ladder.memory_weight, torch.eye(24)) and torch.equal(
        ladder.down_weight[0], torch.eye(24)
    )


def test_the_units_that_attention_to_the_source_reads_are_kept(backbone):
    bart = backbone("bart")
    read = [0, 3, 4, 9, 12, 13, 20, 22]
    with torch.no_grad():
        for layer in bart.layers:
            for linear in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj):
                linear.weight[:, read] += 10
    ladder = build(bart, reduction=3)
    assert initialise(ladder, bart, "magnitude") == []
    assert ladder.memory_weight.nonzero()[:, 0].tolist() == read
    assert ladder.down_weight[0].nonzero()[:, 0].tolist() != read


def test_fisher(backbone):
    t5 = backbone("t5")
    scores = squared_gradients(t5, encoded(t5), "seq2seq", "mean", texts=3)
    assert scores["decoder.block.0.layer.1.EncDecAttention.k.weight"].max() > 0
    assert scores["encoder.block.0.layer.0.SelfAttention.q.weight"].max() > 0
    assert all(p.grad is None and not p.requires_grad for p in t5.model.parameters())
    assert initialise(build(t5), t5, "fisher", lambda: scores) == []


@pytest.mark.parametrize("name", ["full", "lora", "bitfit"])
def test_other_methods_train_it_too(name, backbone):
    if name == "lora":
        pytest.importorskip("peft")
    found = backbone("bart")
    data = encoded(found)
    learner = make_baseline(name, found, LadderData(data, data), LadderTrainingConfig(task="seq2seq"))
    learner.module.eval()  # LoRA begins as the model, and dropout would change it
    inputs = data.inputs([0, 1, 2], found.pad)
    with torch.no_grad():
        logits = found.full(**inputs).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), data.labels([0, 1, 2]).flatten())
    loss = learner.loss([0, 1, 2])
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-4)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in learner.parameters())
    assert all(p.grad is None for p in found.model.parameters())


def test_two_models_put_together_are_refused(tmp_path, encoders, writers):
    import transformers

    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 3}
    small = transformers.BertConfig(vocab_size=331, **shape)
    reads = transformers.BertConfig(vocab_size=331, is_decoder=True, add_cross_attention=True, **shape)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(small, reads)
    config.decoder_start_token_id = 1
    transformers.EncoderDecoderModel(config).save_pretrained(tmp_path)
    for file in writers("t5").glob("token*"):
        shutil.copy(file, tmp_path)
    for writes in (True, False):
        with pytest.raises(OrdtoolError, match="put together of two others") as error:
            load_backbone(str(tmp_path), writes=writes)
        assert error.value.hint


WORDS = "cat dog bird river tree".split()
SOURCES = [first + (second and f" {second}") for first in WORDS for second in ("", *WORDS)]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Sources of one or two words, to be copied."""
    path = tmp_path_factory.mktemp("copies") / "c.jsonl"
    path.write_text("".join(json.dumps({"text": text, "target": text}) + "\n" for text in SOURCES * 8))
    return path


@pytest.fixture(scope="module")
def trained(copies, tmp_path_factory, writers):
    """`trained("t5")`: a ladder that was taught to copy, its folder, and its history."""
    made = {}

    def train(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"ladder-{kind}")
            settings = LadderTrainingConfig(
                task="seq2seq",
                reduction=1,
                max_length=24,
                schedule=ScheduleConfig(epochs=12, batch_size=16, learning_rate=1e-2),
                cache_dir=str(folder / "states"),
            )
            found = train_ladder([copies], folder / "ladder", settings, model=str(writers(kind)))
            made[kind] = folder / "ladder", found
        return made[kind]

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_and_the_ladder_alone_is_saved(kind, trained, tmp_path):
    import transformers
    from safetensors.torch import load_file

    folder, found = trained(kind)
    losses = [row["loss"] for row in found.history.epochs]
    assert found.history.best.name == "loss" and losses[-1] < 0.2 * losses[0]
    saved = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == found.parameters
    transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).save_pretrained(tmp_path)
    again = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in saved.items())


def test_another_process_gives_the_same(trained, launcher, tmp_path):
    import transformers

    code = (
        "import sys, numpy as np, torch, transformers\nimport ordtool.tuning.ladder.ladder_models\n"
        "ids = torch.tensor([[5, 9, 7]])\n"
        "for folder in sys.argv[2:]:\n"
        "    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)\n"
        "    with torch.no_grad():\n        logits = model(input_ids=ids, decoder_input_ids=ids).logits\n"
        "    np.save(f'{sys.argv[1]}/{model.config.model_type}.npy', logits.numpy())\n"
    )
    folders = [trained(kind)[0] for kind in KINDS]
    done = launcher.run(["-c", code, tmp_path, *folders], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ids = torch.tensor([[5, 9, 7]])
    for kind, folder in zip(KINDS, folders, strict=True):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=ids).logits
        assert np.array_equal(np.load(tmp_path / f"{kind}.npy"), logits.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_is_all_at_once(kind, trained):
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(trained(kind)[0])
    source, target = torch.tensor([[5, 9, 7, 11]]), torch.tensor([[0, 8, 6, 30, 12]])
    with torch.no_grad():
        whole = model(input_ids=source, decoder_input_ids=target).logits
        encoded = model.get_encoder()(input_ids=source)
        cache, rows = None, []
        for place in range(target.shape[1]):
            step = model(
                encoder_outputs=encoded,
                attention_mask=torch.ones_like(source),
                decoder_input_ids=target[:, place : place + 1],
                **cache_argument(cache),
                use_cache=True,
            )
            cache = cache_of(step)
            rows.append(step.logits)
    torch.testing.assert_close(torch.cat(rows, dim=1), whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_written(kind, trained, writers):
    from ordtool.generation.engine import generate

    def right(model, **options):
        found = generate(SOURCES, str(model), max_new_tokens=8, **options)
        return sum(ours.outputs[0].text == wanted for ours, wanted in zip(found, SOURCES, strict=True))

    folder, _ = trained(kind)
    assert right(folder) >= 25 and right(writers(kind)) == 0
    assert right(folder, beams=3) >= 25
    # Of given answers the copy is the most probable.
    (chosen,) = generate(["cat dog"], str(folder), choices=("dog cat", "cat dog", "bird"))
    assert chosen.outputs[0].text == "cat dog"


def test_cached_training_is_uncached_training(copies, writers, tmp_path):
    histories = []
    for cache in (True, False):
        settings = LadderTrainingConfig(
            task="seq2seq", reduction=2, max_length=24, cache=cache, cache_dir=str(tmp_path),
            schedule=ScheduleConfig(epochs=2, batch_size=16, learning_rate=3e-3),
        )  # fmt: skip
        histories.append(train_ladder([copies], None, settings, model=str(writers("marian"))).history.epochs)
    for a, b in zip(*histories, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.02)
