import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from ordtool.parsing.onlstm.model import OnlstmConfig, OnlstmForCausalLM, save_model
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.text.vocabulary import EOS, UNKNOWN


def tiny(seed=0, **changes) -> OnlstmForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 23,
        "embedding_size": 10,
        "hidden_size": 15,
        "num_hidden_layers": 3,
        "chunk_size": 5,
    }
    return OnlstmForCausalLM(OnlstmConfig(**(sizes | changes))).eval()


def reference(model: OnlstmForCausalLM, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and distances by a plain loop over layers, steps and equations, one sentence at a time."""
    logits, distances = [], []
    for sentence in ids:
        sequence = list(model.model.embed_tokens.weight[sentence])
        depth = []
        for layer in model.model.layers:
            size = layer.weight_hh.shape[1]
            n = size // layer.chunk_size
            h = c = torch.zeros(size, dtype=sequence[0].dtype)
            outputs = []
            for x in sequence:
                z = layer.weight_ih @ x + layer.bias_ih + layer.weight_hh @ h + layer.bias_hh
                i_m = 1 - torch.softmax(z[:n], 0).cumsum(0)
                f_m = torch.softmax(z[n : 2 * n], 0).cumsum(0)
                o, g, i, f = z[2 * n :].view(4, size)
                i_t, f_t = i_m.repeat_interleave(layer.chunk_size), f_m.repeat_interleave(layer.chunk_size)
                w = i_t * f_t
                c = (f.sigmoid() * w + f_t - w) * c + (i.sigmoid() * w + i_t - w) * g.tanh()
                h = o.sigmoid() * c.tanh()
                outputs.append(h)
                depth.append(1 - f_m.mean())
            sequence = outputs
        logits.append(
            torch.stack([model.model.embed_tokens.weight @ h + model.lm_head.bias for h in sequence])
        )
        distances.append(torch.stack(depth).view(len(model.model.layers), -1))
    return torch.stack(logits), torch.stack(distances, dim=1)


def test_against_a_plain_loop():
    model = tiny().double()
    ids = torch.randint(0, 23, (3, 6))
    output = model(ids)
    logits, distances = reference(model, ids)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.distances, distances)


def test_distances_are_those_of_words_after_eos():
    model = tiny().double()
    ids = torch.randint(1, 23, (2, 5))
    framed = torch.cat((torch.zeros(2, 1, dtype=torch.long), ids, torch.zeros(2, 1, dtype=torch.long)), dim=1)
    _, wanted = reference(model, framed)
    found = model.syntactic_distances(ids, torch.tensor([5, 5]))
    torch.testing.assert_close(found, wanted[:, :, 1:-1].detach())


def test_padding_does_not_reach_the_words():
    model = tiny()
    lengths = [7, 1, 4, 0]
    ids = torch.randint(1, 23, (4, 7))
    with torch.inference_mode():
        together = model.syntactic_distances(ids, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            alone = model.syntactic_distances(ids[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(together[:, row, :length], alone[:, 0], rtol=0, atol=1e-6)
            assert (together[:, row, length:] == 0).all()


def test_distances_leave_the_mode_alone_and_use_no_dropout():
    model = tiny().train()
    ids, lengths = torch.randint(1, 23, (2, 5)), torch.tensor([5, 5])
    torch.testing.assert_close(
        model.syntactic_distances(ids, lengths), model.syntactic_distances(ids, lengths)
    )
    assert model.training


def test_the_state_is_carried():
    model = tiny().double()
    ids = torch.randint(0, 23, (2, 9))
    whole = model(ids)
    first = model(ids[:, :4])
    second = model(ids[:, 4:], state=first.state)
    torch.testing.assert_close(torch.cat((first.logits, second.logits), dim=1), whole.logits)


def test_losses_agree():
    model = tiny().double()
    ids = torch.randint(0, 23, (3, 8))
    loss, _, _ = model.window_loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(loss, model(ids, labels=ids).loss)


def test_padding_on_the_left_is_refused():
    with pytest.raises(ValueError, match="pad on the right"):
        tiny()(torch.zeros(1, 3, dtype=torch.long), attention_mask=torch.tensor([[0, 1, 1]]))


def test_dropouts():
    quiet = {f"{name}_dropout": 0.0 for name in ("input", "layer", "output", "weight", "word")}
    ids = torch.randint(0, 23, (3, 8))
    losses = {}
    for name in ("none", *quiet):
        model = tiny(**(quiet | ({} if name == "none" else {name: 0.5}))).train()
        generators = [torch.Generator().manual_seed(s) for s in (1, 1, 2)]
        losses[name] = [model.window_loss(ids, ids, generator=g)[0].item() for g in generators]
        evaluated = model.eval().window_loss(ids, ids)[0].item()
        assert evaluated == pytest.approx(losses["none"][0], abs=1e-6)
    for name, (first, again, other) in losses.items():
        assert first == again
        assert (first == other) == (name == "none")


def test_masks_are_shared_over_time_but_not_over_streams():
    from ordtool.parsing.onlstm.dropout import locked_dropout

    hidden = torch.ones(6, 4, 50)
    dropped = locked_dropout(hidden, 0.4, True, torch.Generator().manual_seed(0))
    assert (dropped == dropped[0]).all()
    assert not (dropped[0, 0] == dropped[0, 1]).all()
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert locked_dropout(hidden, 0.4, False) is hidden


def test_dropout_rate():
    from ordtool.parsing.onlstm.dropout import dropout_mask

    for probability in (0.0, 0.1, 0.45, 0.999):
        mask = dropout_mask(torch.empty(1001, 501), probability, torch.Generator().manual_seed(0))
        zeros = float((mask == 0).double().mean())
        spread = math.sqrt(probability * (1 - probability) / mask.numel())
        assert abs(zeros - probability) <= 4 * spread + 2**-17


def test_bfloat16_products_are_close():
    model = tiny()
    ids = torch.randint(0, 23, (3, 8))
    exact = model.window_loss(ids, ids)[0]
    model.use_matmul_dtype(torch.bfloat16)
    assert abs(model.window_loss(ids, ids)[0] - exact).item() < 0.02


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_size": 4}, "doesn't divide"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"parse_layer_weights": [1.0]}, "needs 3 numbers"),
    ],
)
def test_configurations_are_checked(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)


@pytest.fixture
def saved(tmp_path):
    model = tiny(parse_layer=2, parse_layer_weights=[0.0, 0.5, 0.5], parse_builder="unbiased")
    words = [EOS, UNKNOWN, *(f"w{k}" for k in range(21))]
    save_model(model, OnlstmTokenizer.from_tokens(words), tmp_path)
    return model, tmp_path


def test_the_auto_classes_load_it(saved):
    model, folder = saved
    ids = torch.randint(0, 23, (2, 5))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(loaded, OnlstmForCausalLM)
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert AutoConfig.from_pretrained(folder).parse_layer_weights == [0.0, 0.5, 0.5]
    assert type(AutoTokenizer.from_pretrained(folder)) is OnlstmTokenizer
    states = AutoModel.from_pretrained(folder).eval()(ids).last_hidden_state
    torch.testing.assert_close(states, model(ids).last_hidden_state, rtol=0, atol=0)


def test_save_pretrained_is_a_round_trip(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path / "again")
    loaded = OnlstmForCausalLM.from_pretrained(tmp_path / "again").eval()
    ids = torch.randint(0, 23, (2, 5))
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_half_precision_files_are_computed_in_float32(tmp_path):
    model = tiny()
    words = [EOS, UNKNOWN, *(f"w{k}" for k in range(21))]
    save_model(model, OnlstmTokenizer.from_tokens(words), tmp_path, half=True)
    loaded = OnlstmForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.model.embed_tokens.weight.dtype == torch.float32
    ids = torch.randint(0, 23, (2, 5))
    assert (loaded(ids).logits - model(ids).logits).abs().max() < 1e-2
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"}
