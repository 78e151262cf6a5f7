"""The layouts that benchmarks publish, in miniature, and the figures of their parts."""

import json

import numpy as np
import pytest
from scipy import stats

import ordtool
from ordtool.embedding.encoder import EncoderConfig
from ordtool.embedding.pair_folders import read_pair_folder
from ordtool.embedding.similarity import cosine_similarities
from ordtool.embedding.similarity_job import SimilarityConfig, score_pairs
from ordtool.embedding.whitening import Whitening
from ordtool.errors import OrdtoolError, UsageError

HEADLINES = [
    "The king arrived.\tThe king came.",
    "It rained.\tIt was dry.",
    "A dog ran.\tA dog was running.",
    'Say "no".\tSay "yes".',
]
IMAGES = [
    "A red car.\tA red van.\tsource",
    "Two men sit.\tTwo men stand.\tsource",
    "A cat.\tA boat on a lake.\tsource",
]


@pytest.fixture
def folder(tmp_path):
    """`STS/STS14-en-test`, `SICK`, `STSBenchmark` and `ATEC`, each of a few pairs."""
    year = tmp_path / "STS" / "STS14-en-test"
    year.mkdir(parents=True)
    (year / "STS.input.headlines.txt").write_text("\n".join(HEADLINES) + "\n")
    (year / "STS.gs.headlines.txt").write_text("5.0\n1\n\n2.5\n")
    (year / "STS.input.images.txt").write_text("\n".join(IMAGES) + "\n")
    (year / "STS.gs.images.txt").write_text("4\n3\n0\n")
    (tmp_path / "SICK").mkdir()
    (tmp_path / "SICK" / "SICK_test_annotated.txt").write_text(
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        "6\tA man sings\tA man is singing\t4.9\tENTAILMENT\n7\tA man sings\tA dog sleeps\t1.2\tNEUTRAL\n"
    )
    (tmp_path / "SICK" / "SICK_train.txt").write_text("not read\n")
    (tmp_path / "STSBenchmark").mkdir()
    (tmp_path / "STSBenchmark" / "sts-test.csv").write_text(
        "main-captions\tMSRvid\t2012test\t0024\t2.500\tA girl smiles.\tA girl is glad.\n"
        "main-news\theadlines\t2013\t0001\t0.2\tPrices rose.\tA girl sleeps.\tsource\tsource\n"
    )
    (tmp_path / "ATEC").mkdir()
    (tmp_path / "ATEC" / "ATEC.test.data").write_text(
        "怎么还款\t如何还款\t1\n额度多少\t怎么还款\t0\n", "utf-8"
    )
    (tmp_path / "ATEC" / "ATEC.train.data").write_text("开通花呗\t花呗开通\t1\n", "utf-8")
    return tmp_path


def test_every_layout_is_known(folder):
    tasks = {task.name: task.parts for task in read_pair_folder(folder)}
    assert list(tasks) == ["ATEC", "SICK-R", "STS14", "STS-B"]
    assert {name: [len(pairs) for pairs in parts.values()] for name, parts in tasks.items()} == {
        "ATEC": [1, 2],
        "SICK-R": [2],
        "STS14": [3, 3],
        "STS-B": [2],
    }
    assert list(tasks["ATEC"]) == ["train", "test"]
    assert list(tasks["STS14"]) == ["headlines", "images"]
    last = tasks["STS14"]["headlines"][-1]
    assert (last.left, last.right, last.score) == ('Say "no".', 'Say "yes".', 2.5)
    assert tasks["STS-B"]["test"][0].right == "A girl is glad."
    assert tasks["SICK-R"]["test"][0].score == 4.9


def test_what_is_wrong_names_file_and_line(folder, tmp_path):
    year = folder / "STS" / "STS14-en-test"
    (year / "STS.gs.images.txt").write_text("4\nmany\n0\n")
    with pytest.raises(OrdtoolError, match=r"STS.gs.images.txt:2: 'many' is no number"):
        read_pair_folder(year)
    skipped = []
    [task] = read_pair_folder(year, on_error=skipped.append)
    assert len(task.parts["images"]) == 2
    assert len(skipped) == 1
    (year / "STS.gs.images.txt").write_text("4\n")
    with pytest.raises(OrdtoolError, match="3 lines, and STS.gs.images.txt has 1"):
        read_pair_folder(year)
    (year / "STS.gs.images.txt").unlink()
    with pytest.raises(OrdtoolError, match="no scores beside it"):
        read_pair_folder(year)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OrdtoolError, match="no sentence pairs in it"):
        read_pair_folder(tmp_path / "empty")


def test_parts_all_and_both_means(folder):
    """Against vectors, one whitening of the task, and scipy."""
    year = folder / "STS" / "STS14-en-test"
    encoder = EncoderConfig("static", dtype="float32")
    rows = score_pairs(SimilarityConfig(str(year), encoder, settings=("dims=3",)))
    [task] = read_pair_folder(year)
    found = {(row.part, row.transform): row for row in rows}
    assert [row.part for row in rows[::3]] == ["headlines", "images", "all", "mean", "weighted mean"]
    left, right = (
        ordtool.embed([getattr(pair, side) for pair in task.pairs], model="static")
        for side in ("left", "right")
    )
    gold = np.array([pair.score for pair in task.pairs])
    whitening = Whitening(dims=3).partial_fit(left).partial_fit(right)
    for transform, vectors in (
        ("raw", (left, right)),
        ("dims=3", (whitening.transform(left), whitening.transform(right))),
    ):
        cosines = cosine_similarities(*vectors)
        parts = [slice(0, 3), slice(3, 6)]
        each = [100 * stats.spearmanr(cosines[part], gold[part]).statistic for part in parts]
        assert found["headlines", transform].spearman == pytest.approx(each[0], abs=1e-4)
        assert found["images", transform].spearman == pytest.approx(each[1], abs=1e-4)
        whole = 100 * stats.spearmanr(cosines, gold).statistic
        assert found["all", transform].spearman == pytest.approx(whole, abs=1e-4)
        assert found["mean", transform].spearman == pytest.approx(np.mean(each), abs=1e-4)
    assert found["all", "raw"].pairs == 6
    assert {row.task for row in rows} == {"STS14"}


def test_the_weighted_mean_weighs_by_pairs(folder):
    year = folder / "STS" / "STS14-en-test"
    with (year / "STS.input.images.txt").open("a") as texts, (year / "STS.gs.images.txt").open("a") as scores:
        texts.write("".join(f"Number {n}.\tNumber {n + 1}.\n" for n in range(6)))
        scores.write("".join(f"{n}\n" for n in range(6)))
    rows = {
        row.part: row.pearson
        for row in score_pairs(SimilarityConfig(str(year), EncoderConfig("static")))
        if row.transform == "raw"
    }
    assert rows["weighted mean"] == pytest.approx((3 * rows["headlines"] + 9 * rows["images"]) / 12)
    assert rows["mean"] == pytest.approx((rows["headlines"] + rows["images"]) / 2)


def test_a_curve_by_dims_and_its_plot(folder, run_in_process, tmp_path):
    pytest.importorskip("matplotlib")
    lines = "".join(f"Text {n} of {n % 7}.,Text {n} and {n % 5}.,{n % 6}\n" for n in range(40))
    (tmp_path / "pairs.csv").write_text(lines)
    done = run_in_process(
        "score", "similarity", "pairs.csv", "-m", "static", "--dims", "2,4,8", "--setting", "beta=0,gamma=0",
        "--setting", "dims=3", "--plot", "curve.svg", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["transform"], row["dims"]) for row in rows][4:] == [
        *((f"dims={k}", k) for k in (2, 4, 8)),
        *((f"beta=0,gamma=0,dims={k}", k) for k in (2, 4, 8)),
    ]
    single = run_in_process("score", "similarity", "pairs.csv", "-m", "static", "--setting", "dims=4", "-q")
    assert json.loads(single.stdout.splitlines()[-1])["spearman"] == rows[5]["spearman"]
    assert "dims" not in json.loads(single.stdout.splitlines()[0])
    drawn = (tmp_path / "curve.svg").read_text()
    assert all(name in drawn for name in (">raw<", ">whitened<", ">beta=0,gamma=0<", ">columns kept<"))


def test_fitting_on_another_task_and_on_tabbed_pairs(folder):
    tabbed = folder / "other.test.data"
    tabbed.write_text("How do I pay?\tHow can I pay?\t1\nWhere is it?\tWhen is it?\t0\n")
    for source, rows in ((folder / "SICK", 4), (tabbed, 4)):
        scored = score_pairs(
            SimilarityConfig(str(folder / "STSBenchmark"), EncoderConfig("static"), fit_on=str(source))
        )
        assert scored[1].fitted_on == f"{source.name} ({rows} rows)"
        assert scored[1].task == "STS-B"


def test_vectors_and_dims_of_no_sense(folder):
    with pytest.raises(UsageError, match="not with a folder"):
        SimilarityConfig(str(folder), vectors=("x.npy",))
    with pytest.raises(UsageError, match="`dims` must be an integer of 1 or more"):
        SimilarityConfig("pairs.csv", dims=(0,))
