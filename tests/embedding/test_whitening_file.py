"""The file of a transform: round trip, merging, and what is not one."""

import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ordtool.embedding.statistics import DataError
from ordtool.embedding.whitening import Whitening, merge_whitenings
from ordtool.errors import OrdtoolError


def vectors(rows: int = 2000, dim: int = 9, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, dim)) @ rng.standard_normal((dim, dim)) + 3).astype(dtype)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dims": 4, "normalize": True},
        {"method": "zca", "shrinkage": "oas"},
        {"method": "abtt", "remove": 2},
    ],
    ids=str,
)
def test_what_is_loaded_is_what_was_saved(tmp_path, options):
    whitening = Whitening(**options).fit(vectors())
    whitening.save(tmp_path / "t.safetensors")
    loaded = Whitening.load(tmp_path / "t.safetensors")
    assert loaded.get_params() == whitening.get_params()
    assert (loaded.fitted_on_, loaded.n_samples_seen_, loaded.rank_) == ("2,000 rows", 2000, 9)
    assert loaded.shrinkage_ == whitening.shrinkage_
    np.testing.assert_array_equal(loaded.transform(vectors()), whitening.transform(vectors()))
    np.testing.assert_array_equal(loaded.moments_.scatter, whitening.moments_.scatter)


def test_the_same_data_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        Whitening(dims=3).fit(vectors()).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_tensors_are_plain(tmp_path):
    """Anybody can apply the file with four lines and no ordtool."""
    array = vectors(dtype="float64")
    whitening = Whitening(beta=0.5, dims=3).fit(array)
    whitening.save(tmp_path / "t")
    with safe_open(tmp_path / "t", framework="numpy") as file:
        mean, kernel, values = (file.get_tensor(name) for name in ("mean", "kernel", "eigenvalues"))
    np.testing.assert_allclose((array - 0.5 * mean) @ kernel, whitening.transform(array), atol=1e-12)
    halfway = array - 0.5 * mean
    expected = np.linalg.eigvalsh(halfway.T @ halfway / (len(array) - 1))[::-1]
    np.testing.assert_allclose(values, expected, rtol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_shards_merged_are_one_pass(beta):
    array = vectors(10_000)
    whole = Whitening(dims=5, beta=beta).fit(array)
    shards = [Whitening(dims=5, beta=beta).fit(part) for part in np.array_split(array, [100, 7000])]
    merged = merge_whitenings(shards)
    assert merged.n_samples_seen_ == 10_000
    assert merged.fitted_on_ == "100 rows + 6,900 rows + 3,000 rows"
    np.testing.assert_allclose(merged.eigenvalues_, whole.eigenvalues_, rtol=1e-6)
    np.testing.assert_allclose(merged.transform(array), whole.transform(array), atol=1e-5)


@pytest.mark.parametrize("covariance", ["shifted", "centred"])
def test_the_covariance_that_was_asked_for_comes_back(covariance, tmp_path):
    for beta in (0.3, 1.0):
        whitening = Whitening(beta=beta, covariance=covariance, dims=3).fit(vectors())
        whitening.save(tmp_path / "t")
        assert repr(Whitening.load(tmp_path / "t")) == repr(whitening)


def test_files_from_before_there_was_a_choice_are_centred(tmp_path):
    """Whatever their options: such a file's own kernel was, and what is solved anew from it stays so."""
    whitening = Whitening(beta=0.3, covariance="centred", dims=3).fit(vectors())
    whitening.save(tmp_path / "t")
    with safe_open(tmp_path / "t", framework="numpy") as file:
        header = json.loads(file.metadata()["ordtool"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    del header["options"]["covariance"]
    save_file(tensors, tmp_path / "t", metadata={"ordtool": json.dumps(header)})
    assert Whitening.load(tmp_path / "t").with_options(dims=2).covariance == "centred"


def test_merging_keeps_the_options_or_takes_new_ones():
    one, two = Whitening(dims=5).fit(vectors()), Whitening(dims=4).fit(vectors(seed=1))
    with pytest.raises(OrdtoolError, match="transform 2 has other options than the first"):
        merge_whitenings([one, two])
    assert merge_whitenings([one, two], dims=2).kernel_.shape == (9, 2)
    assert merge_whitenings([one, one]).dims == 5
    assert one.n_samples_seen_ == 2000, "merging must not change its inputs"


def test_merging_other_widths():
    with pytest.raises(DataError, match="width 9 and 7"):
        merge_whitenings([Whitening().fit(vectors()), Whitening().fit(vectors(dim=7))])


def test_what_is_no_transform(tmp_path):
    (tmp_path / "p").write_bytes(pickle.dumps({"mean": 1}))
    np.save(tmp_path / "n.npy", np.ones(3))
    (tmp_path / "short").write_bytes(b"\x10")
    (tmp_path / "empty").write_bytes(b"")
    save_file({"weight": np.ones(3)}, tmp_path / "other")
    Whitening().fit(vectors()).save(tmp_path / "t")
    (tmp_path / "cut").write_bytes((tmp_path / "t").read_bytes()[:-100])
    for name, message in {
        "p": "looks like a pickle, which ordtool never loads",
        "n.npy": "it is an NPY file",
        "short": "not a safetensors file, or damaged",
        "empty": "not a safetensors file, or damaged",
        "cut": "not a safetensors file, or damaged",
        "other": "a safetensors file, but not a whitening transform",
        "missing": "no such file",
        ".": "it is a folder",
    }.items():
        with pytest.raises(OrdtoolError, match=message) as caught:
            Whitening.load(tmp_path / name)
        assert "--save" in caught.value.hint


def test_saving_needs_a_fit_and_respects_files(tmp_path):
    with pytest.raises(Exception, match="not fitted yet"):
        Whitening().save(tmp_path / "t")
    whitening = Whitening().fit(vectors())
    whitening.save(tmp_path / "t")
    with pytest.raises(OrdtoolError, match="exists already"):
        whitening.save(tmp_path / "t", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


DAMAGE = {
    "no options": lambda header, tensors: header.pop("options"),
    "options that are a list": lambda header, tensors: header.update(options=[1]),
    "an option without meaning": lambda header, tensors: header["options"].update(beta="x"),
    "rows that are text": lambda header, tensors: header.update(rows="many"),
    "a rank below zero": lambda header, tensors: header.update(rank=-1),
    "no rank": lambda header, tensors: header.pop("rank"),
    "a condition that is a list": lambda header, tensors: header.update(condition=[]),
    "notes that are a number": lambda header, tensors: header.update(notes=3),
    "a version of the future": lambda header, tensors: header.update(version=99),
    "a version that is text": lambda header, tensors: header.update(version="1"),
    "a kernel of another height": lambda header, tensors: tensors.update(kernel=np.ones((3, 2))),
    "a mean with two axes": lambda header, tensors: tensors.update(mean=np.ones((9, 1))),
    "too little scatter": lambda header, tensors: tensors.update(scatter=np.ones(7)),
    "a NaN": lambda header, tensors: tensors["kernel"].__setitem__((0, 0), np.nan),
    "integers": lambda header, tensors: tensors.update(eigenvalues=np.ones(9, np.int64)),
    "nothing": lambda header, tensors: tensors.update(mean=np.ones(0)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_transform_is_one_line(tmp_path, damage):
    Whitening().fit(vectors()).save(tmp_path / "t")
    with safe_open(tmp_path / "t", framework="numpy") as file:
        header = json.loads(file.metadata()["ordtool"])
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}
    damage(header, tensors)
    save_file(tensors, tmp_path / "t", metadata={"ordtool": json.dumps(header)})
    with pytest.raises(OrdtoolError, match="damaged whitening transform|of a version this ordtool knows"):
        Whitening.load(tmp_path / "t")


def test_a_header_that_is_no_object(tmp_path):
    for header in ("3", "[]", "null", "{", "[" * 10**5):
        tensors = {name: np.ones(1) for name in ("mean", "kernel", "eigenvalues", "scatter")}
        save_file(tensors, tmp_path / "t", metadata={"ordtool": header})
        with pytest.raises(OrdtoolError, match="damaged|not a whitening transform"):
            Whitening.load(tmp_path / "t")


def test_an_option_that_came_later_is_written_where_it_was_asked_for(tmp_path):
    """Older versions read the files of those who don't use it."""
    for standardize in (False, True):
        Whitening(standardize=standardize).fit(vectors()).save(tmp_path / "t")
        with safe_open(tmp_path / "t", framework="numpy") as file:
            assert ("standardize" in json.loads(file.metadata()["ordtool"])["options"]) == standardize
        assert Whitening.load(tmp_path / "t").standardize == standardize
