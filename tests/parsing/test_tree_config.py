import numpy as np
import pytest

from ordtool.parsing.onlstm.model import OnlstmConfig
from ordtool.parsing.trees.config import TreeConfig, current_keys

OLD = {
    "num_hidden_layers": 3,
    "parse_layer_weights": [0.0, 0.25, 0.75],
    "parse_builder": "mixed",
    "parse_tilt": 0.1,
    "parse_marks": {"comma": 2.0, "joint": -3.0},
}
READ = TreeConfig((0.0, 0.25, 0.75), "mixed", 0.1, (("comma", 2.0), ("hyphen", -3.0)))


def test_old_keys_are_read_under_their_new_names():
    assert TreeConfig.from_model(OLD) == READ
    assert TreeConfig.from_model({"num_hidden_layers": 3, **READ.to_model()}) == READ
    config = OnlstmConfig(**OLD)
    assert config.parse_right_branching_bias == 0.1
    assert config.parse_punctuation_bonus == {"comma": 2.0, "hyphen": -3.0}
    assert TreeConfig.from_model(config.to_dict()) == READ
    assert not {"parse_tilt", "parse_marks"} & set(config.to_dict())


def test_of_both_names_the_new_one_counts():
    assert current_keys({"parse_right_branching_bias": 1.0, "parse_tilt": 2.0}) == {
        "parse_right_branching_bias": 1.0
    }


def test_without_weights_one_layer_counts():
    assert TreeConfig.from_model({"num_hidden_layers": 2}).layer_weights == (0.0, 1.0)
    assert TreeConfig.from_model({"num_hidden_layers": 1, "parse_layer": 3}).layer_weights == (1.0,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parse_layer_weights": [1.0]},
        {"parse_layer_weights": [0.0, 0.0]},
        {"parse_layer_weights": [float("nan"), 1.0]},
        {"parse_layer": 0},
        {"parse_marks": {"colour": 1}},
        {"parse_marks": {"comma": "x"}},
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match=r"parse_(layer_weights|punctuation_bonus)"):
        TreeConfig.from_model({"num_hidden_layers": 2} | wrong)


def test_priors_are_added_one_after_the_other():
    distances, comma = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 0, 0])
    spread = distances.std()
    leaning = distances - 0.5 * spread * np.arange(4)
    expected = leaning + np.array([0, 0, 2 * leaning.std(), 0])
    config = TreeConfig(right_branching_bias=0.5, punctuation_bonus=(("comma", 2.0),))
    np.testing.assert_allclose(config.add_priors(distances, comma), expected)
    assert TreeConfig().add_priors(distances, comma) is distances


def test_a_name_for_people():
    assert TreeConfig((0.0, 1.0)).name == "layer 2, paper"
    assert READ.name == (
        "layer 2 x 0.25 + layer 3 x 0.75, mixed, right-branching bias 0.1, comma 2, hyphen -3"
    )
