"""`ordtool.predict`, and how a regression is measured."""

import numpy as np
import pytest

import ordtool
from ordtool.prediction.evaluation import Evaluation


def test_texts_and_one_text(encoders):
    model = str(encoders("classifier"))
    many = ordtool.predict(["the cat sat", "a dog"], model, vectors=True)
    one = ordtool.predict("the cat sat", model)
    assert one.label == many[0].label == max(one.probabilities, key=one.probabilities.get)
    assert sum(one.probabilities.values()) == pytest.approx(1)
    assert one.vector is None and many[1].vector.shape == (24,)
    assert ordtool.predict([], model) == []


def test_vectors(tmp_path, encoders):
    from ordtool.independence.bottleneck_training import BottleneckTrainingConfig, train_bottleneck
    from ordtool.independence.labelled import Labelled

    rows = np.random.default_rng(0).standard_normal((80, 4)).astype(np.float32)
    data = Labelled(rows, (rows[:, 0] > 0).astype(int), ("minus", "plus"))
    train_bottleneck(data, config=BottleneckTrainingConfig(method="linear")).model.save_pretrained(
        tmp_path / "m"
    )
    found = ordtool.predict(np.array([[3.0, 0, 0, 0], [-3, 0, 0, 0]]), str(tmp_path / "m"))
    assert [prediction.label for prediction in found] == ["plus", "minus"]
    with pytest.raises(ordtool.OrdtoolError, match="doesn't say what made them"):
        ordtool.predict("a text", str(tmp_path / "m"))
    with pytest.raises(ordtool.UsageError, match="takes texts, and vectors were given"):
        ordtool.predict(rows, str(encoders("classifier")))


def test_a_regression_is_measured_as_scipy_does():
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(0)
    known, predicted = rng.normal(size=30), rng.normal(size=30)
    evaluation = Evaluation([])
    for k, p in zip(known, predicted, strict=True):
        evaluation.add(str(k), float(p))
    evaluation.add("unknown", 1.0)
    found = evaluation.record()
    assert found["records"] == 30
    assert found["pearson"] == pytest.approx(100 * pearsonr(known, predicted)[0], abs=1e-4)
    assert found["spearman"] == pytest.approx(100 * spearmanr(known, predicted)[0], abs=1e-4)
    assert found["rmse"] == pytest.approx(float(np.sqrt(np.mean((known - predicted) ** 2))), abs=1e-6)
