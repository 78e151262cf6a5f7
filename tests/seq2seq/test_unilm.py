"""Encoders under the sequence-to-sequence mask: against a loop over targets, against leaks, cached and padded."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ordtool.models.releases import cache_argument, cache_of
from ordtool.seq2seq.data import unilm_batch
from ordtool.seq2seq.models import ENCODERS, from_encoder, resize_embeddings
from ordtool.seq2seq.unilm import NEVER, UnilmForSeq2Seq

SHAPE = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 40, "initializer_range": 0.4, "is_decoder": True, "pad_token_id": 0,
}  # fmt: skip
HEADLESS = ["bert", "roberta", "electra"]


def language_model(kind, own_head=True):
    import transformers

    torch.manual_seed(3)
    more = {"embedding_size": 16 if own_head else 24} if kind == "electra" else {}
    config = transformers.AutoConfig.for_model(kind, **SHAPE, **more)
    lm = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.normal_(std=0.3)
    return lm.eval()


def make(kind, own_head=True):
    return from_encoder(language_model(kind, own_head), own_head).eval()


@pytest.fixture(
    scope="module", params=[(k, True) for k in ENCODERS] + [(k, False) for k in HEADLESS], ids=str
)
def model(request):
    return make(*request.param)


def by_hand(model, source, target):
    """Logits (target, vocabulary) by the encoder itself, an additive mask, and every position given."""
    ids = torch.tensor([[*source, *target[:-1]]])
    n, s = ids.shape[1], len(source)
    mask = torch.full((n, n), torch.finfo(torch.float32).min)
    mask[:, :s] = 0
    for query in range(s, n):
        mask[query, s : query + 1] = 0
    types = (torch.arange(n) >= s).long()[None]
    if model.encoder.config.type_vocab_size < 2:
        types = torch.zeros_like(types)
    offset = model.config.position_offset
    with torch.no_grad():
        hidden = model.encoder(
            input_ids=ids,
            attention_mask=mask[None, None],
            token_type_ids=types,
            position_ids=torch.arange(n)[None] + offset,
            use_cache=False,
        ).last_hidden_state[0, s - 1 :]
        if model.transform is not None:
            hidden = model.transform(hidden)
        return hidden @ model.get_input_embeddings().weight.T + model.bias


SOURCE, TARGETS = [2, 7, 8, 9, 3], [[11, 12, 3], [13, 3], [14, 15, 16, 17, 3]]


def test_the_head_of_the_checkpoint_is_kept():
    for kind in ENCODERS:
        model = make(kind)
        ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
        mask = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
        with torch.no_grad():
            expected = language_model(kind)(input_ids=ids, attention_mask=mask, use_cache=False).logits
            hidden = model.encoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            assert torch.allclose(model._logits(hidden, None), expected, atol=1e-5), kind


def test_targets_of_one_row_are_as_each_alone(model):
    """The loss of several targets that share their source is that of separate sequences, by hand."""
    batch = unilm_batch([(SOURCE, TARGETS), ([2, 20, 3], [[21, 22, 23, 3]])], 0)
    with torch.no_grad():
        out = model(**batch)
    pairs = [(SOURCE, target) for target in TARGETS] + [([2, 20, 3], [21, 22, 23, 3])]
    logits = torch.cat([by_hand(model, source, target) for source, target in pairs])
    labels = torch.tensor([token for _, target in pairs for token in target])
    assert torch.equal(batch["labels"], labels)
    assert torch.allclose(out.logits, logits, atol=1e-5)
    assert out.loss.item() == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-5)
    assert model(**batch, num_items_in_batch=7).loss.item() == pytest.approx(
        out.loss.item() * len(labels) / 7, abs=1e-5
    )


def test_gradients_are_those_of_separate_rows():
    together, apart = make("bert"), make("bert")
    together(**unilm_batch([(SOURCE, TARGETS)], 0)).loss.backward()
    apart(**unilm_batch([(SOURCE, [target]) for target in TARGETS], 0)).loss.backward()
    for (name, one), (_, other) in zip(together.named_parameters(), apart.named_parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, atol=1e-5), name


def test_nothing_leaks(model):
    """Perturb one token: only who may see it changes."""
    batch = unilm_batch([(SOURCE, TARGETS)], 0)
    plain = {name: batch[name] for name in batch if name not in ("labels", "predictors")}
    with torch.no_grad():
        before = model(**plain).logits[0]
        for place in range(plain["input_ids"].shape[1]):
            changed = {name: value.clone() for name, value in plain.items()}
            changed["input_ids"][0, place] = 30
            after = model(**changed).logits[0]
            own = batch["token_type_ids"][0]
            moved = (after - before).abs().amax(-1) > 1e-7
            for query in range(len(own)):
                sees = own[place] == 0 or (own[query] == own[place] and place <= query)
                assert bool(moved[query]) == bool(sees), (place, query)


def test_cached_is_uncached_and_padding_changes_nothing(model):
    sources = [SOURCE, [2, 30, 31, 32, 33, 34, 35, 3], [2, 3]]
    target = [11, 12, 13, 14, 3]
    width = max(map(len, sources))
    ids = torch.tensor([[0] * (width - len(s)) + s for s in sources])
    mask = (torch.arange(width)[None] >= torch.tensor([[width - len(s)] for s in sources])).long()
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, use_cache=True)
        steps, cache = [out.logits[:, -1]], cache_of(out)
        for token in target[:-1]:
            mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1)
            out = model(
                input_ids=torch.full((3, 1), token),
                attention_mask=mask,
                **cache_argument(cache),
                use_cache=True,
            )
            steps.append(out.logits[:, -1])
    for row, source in enumerate(sources):
        expected = by_hand(model, source, target)
        assert torch.allclose(torch.stack(steps, 1)[row], expected, atol=1e-5)


def test_eager_attention_is_the_same():
    model = make("bert")
    batch = unilm_batch([(SOURCE, TARGETS)], 0)
    with torch.no_grad():
        expected = model(**batch).logits
        model.encoder.set_attn_implementation("eager")
        assert torch.allclose(model(**batch).logits, expected, atol=1e-5)


def test_a_restricted_vocabulary_is_a_smaller_softmax():
    model = make("bert")
    batch = unilm_batch([(SOURCE, TARGETS)], 0)
    allowed = torch.tensor([3, 11, 12, 13, 14, 15, 16, 17, 40])
    with torch.no_grad():
        logits = model(**batch).logits[:, allowed]
        labels = torch.searchsorted(allowed, batch["labels"])
        model.restrict(allowed)
        assert model(**batch).loss.item() == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-6)
        model.restrict(None)  # what remains is the bias
        full = model(**batch)
    assert full.loss.item() == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-6)
    others = [token for token in range(50) if token not in allowed.tolist()]
    assert (full.logits[:, others] < NEVER / 2).all()


def test_new_tokens_begin_as_the_mean_of_old_ones(tmp_path):
    model = make("bert")
    table, bias = model.get_input_embeddings().weight.clone(), model.bias.clone()
    resize_embeddings(model, 50, [[5, 6], [7], []])
    grown = model.get_input_embeddings().weight
    assert grown.shape == (53, 24)
    assert torch.equal(grown[:50], table)
    assert torch.allclose(grown[50:], torch.stack([table[5:7].mean(0), table[7], table.mean(0)]))
    assert model.bias[51] == bias[7]
    model.save_pretrained(tmp_path)
    again = UnilmForSeq2Seq.from_pretrained(tmp_path).eval()
    batch = unilm_batch([([2, 51, 3], [[52, 3]])], 0)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
