"""Small labelled data, and a backbone of a tiny random encoder."""

import numpy as np
import pytest

from ordtool.tuning.loading import load_backbone

NEAR, FAR = "cat dog bird".split(), "river tree sea".split()


@pytest.fixture(scope="session")
def lines():
    """`lines(count, seed)`: `(text, label)` where the label says which words the text has."""

    def make(count: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        found = []
        for index in range(count):
            words = list(rng.choice("the a sat ran near under old and".split(), rng.integers(2, 7)))
            words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(FAR if index % 2 else NEAR)))
            found.append((" ".join(map(str, words)), "wet" if index % 2 else "beast"))
        return found

    return make


@pytest.fixture
def table(tmp_path, lines):
    """`table("a.tsv", 40)`: a labelled TSV."""

    def write(name: str, count: int, seed: int = 0):
        path = tmp_path / name
        path.write_text("".join(f"{text}\t{label}\n" for text, label in lines(count, seed)))
        return path

    return write


@pytest.fixture
def bert(encoders):
    return load_backbone(str(encoders("bert")))


@pytest.fixture
def llama(writers):
    return load_backbone(str(writers("llama")), writes=True)
