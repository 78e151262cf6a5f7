"""A ladder without transformers against the one that was trained."""

import json

import numpy as np
import pytest
import torch

from ordtool.errors import OrdtoolError
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.ladder.plain import PlainLadder, read_plain_ladder
from ordtool.tuning.loading import load_backbone, load_ladder_and_backbone, load_plain_ladder


@pytest.fixture
def ladder(encoders, tmp_path):
    """`ladder(task=..., kind=...)`: the folder of a ladder with random weights."""
    home = encoders("plain-bert")
    backbone = load_backbone(str(home))

    def make(**options):
        names = {0: "a", 1: "b", 2: "c"} if options.get("task", "classify") != "regress" else {0: "score"}
        config = LadderConfig(
            backbone=str(home),
            backbone_hash=backbone.hash,
            backbone_config=backbone.config.to_dict(),
            id2label=names,
            layers=[1, 3],
            reduction=2,
            **options,
        )
        torch.manual_seed(3)
        made = Ladder(config)
        for parameter in made.trained_parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        made.save_pretrained(tmp_path / "ladder")
        return tmp_path / "ladder"

    return make


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "additive", "pooling": "cls"},
        {"kind": "additive", "adds_after": True},
        {"pooling": "last", "residual": False},
        {"task": "regress", "target_mean": 2.0, "target_scale": 3.0},
    ],
)
def test_scores_are_those_of_the_trained_ladder(ladder, options):
    folder = ladder(**options)
    plain, beside = load_plain_ladder(folder)
    whole, backbone = load_ladder_and_backbone(folder)
    assert isinstance(plain, PlainLadder) and isinstance(beside, Backbone)
    rng = np.random.default_rng(1)
    ids = torch.from_numpy(rng.integers(0, 60, (4, 9)))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [2], [1]])).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.inference_mode():
        ours, theirs = (
            side(states.hidden, states.last, states.mask)
            for side, model in ((plain, beside), (whole, backbone))
            for states in [model.states(inputs, [1, 3], torch.float32)]
        )
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.pooled, theirs.pooled, rtol=1e-5, atol=1e-5)
    for name in ("labels", "task", "id2label", "pair_field", "text_length", "target_mean", "target_scale"):
        assert getattr(plain.config, name) == getattr(whole.config, name)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "lm"},
        {"kind": "other"},
        {"layers": [1, 4]},
        {"reduction": 0},
        {"a_new_key": 1},
        {"adds_after": 1},
        {"block": "mlp"},
    ],
)
def test_what_is_not_known_is_left_to_the_loader(ladder, change):
    folder = ladder()
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | change))
    assert read_plain_ladder(folder) is None


def test_an_older_additive_ladder_keeps_its_form(ladder):
    folder = ladder(kind="additive")
    said = json.loads((folder / "config.json").read_text())
    del said["adds_after"]
    (folder / "config.json").write_text(json.dumps(said))
    plain, whole = read_plain_ladder(folder), load_ladder_and_backbone(folder)[0]
    assert plain is not None and plain.config.adds_after is False and whole.config.adds_after is False


def test_another_backbone_is_refused(ladder):
    folder = ladder()
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"backbone_hash": "0" * 64}))
    with pytest.raises(OrdtoolError, match="belongs to another backbone"):
        load_plain_ladder(folder)
