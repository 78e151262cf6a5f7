"""Structural pruning: where the weights come from, and that importance decides."""

import pytest
import torch

from ordtool.errors import UsageError
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.fisher import squared_gradients
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.loading import load_backbone
from ordtool.tuning.pruning import initialise


def ladder_of(backbone, reduction):
    layers = range(1, backbone.depth + 1)
    return Ladder(
        LadderConfig(
            backbone_config=backbone.config.to_dict(), reduction=reduction, layers=layers, num_labels=2
        )
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "llama", "t5", "bart"])
def test_nothing_pruned_is_the_backbone_itself(kind, encoders, writers):
    folder = writers(kind) if kind in ("llama", "t5", "bart") else encoders(kind)
    backbone = load_backbone(str(folder))
    ladder = ladder_of(backbone, 1)
    assert initialise(ladder, backbone, "magnitude") == []
    theirs = dict(backbone.model.named_parameters())
    checked = 0
    for name, parameter in ladder.side.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter, theirs[name])
            checked += 1
    assert checked > 10
    assert torch.equal(ladder.down_weight[0], torch.eye(backbone.config.hidden_size))


def test_the_largest_units_are_kept(bert):
    layer = bert.model.encoder.layer
    hidden, inner, dims = [1, 5, 6, 11, 17, 20, 21, 23], [3, 4, 30], [0, 2, 4, 5]
    with torch.no_grad():
        for block in layer:
            for linear in (m for m in block.modules() if isinstance(m, torch.nn.Linear)):
                linear.weight.normal_(std=0.01)
            for linear in (block.attention.self.query, block.attention.self.key, block.attention.self.value):
                linear.weight[:, hidden] += 1
            block.intermediate.dense.weight[inner] += 10
            block.output.dense.weight[hidden] += 1
            # The second of three heads, and in it some of the dimensions.
            for dim in dims:
                block.attention.self.value.weight[8 + dim] += 20
    ladder = ladder_of(bert, 3)
    assert (ladder.width, len(hidden)) == (8, 8)
    initialise(ladder, bert, "magnitude")
    assert ladder.down_weight[0].nonzero()[:, 0].tolist() == hidden
    small, large = ladder.side_layers[1], layer[1]
    assert set(inner) <= {
        i
        for i in range(40)
        for row in small.intermediate.dense.bias.tolist()
        if large.intermediate.dense.bias[i] == row
    }
    value = small.attention.self.value.weight
    torch.testing.assert_close(value, large.attention.self.value.weight[8:16][:, hidden])


def test_fisher_is_the_squared_gradient(bert):
    import numpy as np

    rng = np.random.default_rng(0)
    data = Encoded([rng.integers(5, 60, 6) for _ in range(12)], None, np.arange(12) % 2)
    found = squared_gradients(bert, data, "classify", "mean", texts=12)
    assert set(found) == {name for name, _ in bert.model.named_parameters()}
    assert found["encoder.layer.0.attention.self.query.weight"].max() > 0
    assert all(not p.requires_grad and p.grad is None for p in bert.model.parameters())
    # A word that no text has moves no loss.
    absent = next(i for i in range(5, 60) if all(i not in ids for ids in data.ids))
    assert found["embeddings.word_embeddings.weight"][absent].abs().max() == 0
    ladder = ladder_of(bert, 2)
    assert initialise(ladder, bert, "fisher", lambda: found) == []


def test_unknown_way(bert):
    with pytest.raises(UsageError, match="unknown initialisation 'magic'"):
        initialise(ladder_of(bert, 2), bert, "magic")
