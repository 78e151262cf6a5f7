"""`ordtool whiten` as a process: files, pipes, transforms, bad input, a full disk."""

import io
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from ordtool.embedding.whitening import Whitening

ROWS, DIM = 6000, 12


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(0)
    array = (rng.standard_normal((ROWS, DIM)) @ rng.standard_normal((DIM, DIM)) + 3).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    return array


def identity_error(array):
    return np.abs(np.cov(array.astype(np.float64).T) - np.eye(array.shape[1])).max()


def test_a_file_is_whitened(run_in_process, tmp_path, vectors):
    done = run_in_process("whiten", "x.npy", "-o", "w.npy")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.strip() == "fitted on x.npy (6,000 rows): 12 -> 12 columns, full rank"
    white = np.load(tmp_path / "w.npy")
    assert (white.shape, white.dtype) == ((ROWS, DIM), np.float32)
    assert identity_error(white) < 1e-4


def test_a_pipe_is_whitened(run, tmp_path, vectors):
    data = (tmp_path / "x.npy").read_bytes()
    for argv in (("--dims", 5), ("-", "--dims", 5, "-o", "-")):
        done = run("whiten", *argv, stdin=data)
        assert done.returncode == 0, done.stderr
        white = np.load(io.BytesIO(done.stdout))
        assert white.shape == (ROWS, 5)
        assert identity_error(white) < 1e-4
    run("whiten", "x.npy", "--dims", 5, "-o", "w.npy")
    assert (tmp_path / "w.npy").read_bytes() == done.stdout


def test_the_same_command_gives_the_same_bytes(run_in_process, tmp_path, vectors):
    for name in ("a", "b"):
        assert (
            run_in_process("whiten", "x.npy", "--save", f"{name}.safetensors", "-o", f"{name}.npy").returncode
            == 0
        )
    for suffix in ("safetensors", "npy"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_saved_transform_is_applied(run_in_process, tmp_path, vectors):
    done = run_in_process("whiten", "x.npy", "--dims", 4, "--normalize", "--save", "t.safetensors")
    assert (done.returncode, done.stdout) == (0, b""), "with --save alone no vectors are written"
    np.save(tmp_path / "y.npy", vectors[:7].astype(np.float16))
    run_in_process("whiten", "x.npy", "--dims", 4, "--normalize", "-o", "x4.npy")
    assert run_in_process("whiten", "y.npy", "--transform", "t.safetensors", "-o", "y4.npy").returncode == 0
    np.testing.assert_allclose(np.load(tmp_path / "y4.npy"), np.load(tmp_path / "x4.npy")[:7], atol=5e-3)
    other = run_in_process(
        "whiten",
        "y.npy",
        "--transform",
        "t.safetensors",
        "--dims",
        2,
        "--no-normalize",
        "--precision",
        "float16",
    )
    result = np.load(io.BytesIO(other.stdout))
    assert (result.shape, result.dtype) == ((7, 2), np.float16)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_precision_follows_the_input_or_the_option(run_in_process, tmp_path, vectors, dtype):
    np.save(tmp_path / "y.npy", vectors.astype(dtype))
    own = np.load(io.BytesIO(run_in_process("whiten", "y.npy").stdout))
    assert own.dtype == ("float64" if dtype == "float64" else "float32")
    asked = np.load(io.BytesIO(run_in_process("whiten", "y.npy", "--precision", dtype).stdout))
    assert asked.dtype == dtype
    np.testing.assert_allclose(asked, own, rtol=1e-3, atol=1e-6)


def test_shards_merge_into_one_pass(run_in_process, tmp_path, vectors):
    for name, part in (("a", vectors[:1000]), ("b", vectors[1000:])):
        np.save(tmp_path / f"{name}.npy", part)
        run_in_process("whiten", f"{name}.npy", "--save", f"{name}.safetensors")
    done = run_in_process("whiten", "merge", "a.safetensors", "b.safetensors", "-o", "c.safetensors")
    assert done.returncode == 0, done.stderr
    assert "fitted on a.npy (1,000 rows) + b.npy (5,000 rows): 12 -> 12 columns" in done.stderr
    merged = np.load(io.BytesIO(run_in_process("whiten", "x.npy", "--transform", "c.safetensors").stdout))
    whole = np.load(io.BytesIO(run_in_process("whiten", "x.npy").stdout))
    np.testing.assert_allclose(merged, whole, atol=1e-5)
    run_in_process("whiten", "merge", "a.safetensors", "b.safetensors", "-o", "d.safetensors", "--dims", 3)
    assert np.load(
        io.BytesIO(run_in_process("whiten", "x.npy", "--transform", "d.safetensors").stdout)
    ).shape == (
        ROWS,
        3,
    )


def test_several_files_are_one_set(run_in_process, fails_in_process, tmp_path, vectors):
    for name, rows in {"a": slice(0, 10), "b": slice(10, 4500), "c": slice(4500, None)}.items():
        np.save(tmp_path / f"{name}.npy", vectors[rows])
    done = run_in_process("whiten", "a.npy", "b.npy", "c.npy", "--save", "all.safetensors", "-o", "w.npy")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("fitted on 3 files, a.npy to c.npy (6,000 rows): 12 -> 12 columns")
    assert identity_error(np.load(tmp_path / "w.npy")) < 1e-4
    # One pass over all rows, in float64.
    wide = vectors.astype(np.float64)
    np.save(tmp_path / "wide.npy", wide)
    assert run_in_process("whiten", "wide.npy", "--save", "one.safetensors").returncode == 0
    merged, one = (Whitening.load(tmp_path / f"{name}.safetensors") for name in ("all", "one"))
    np.testing.assert_allclose(merged.mean_, wide.mean(axis=0), rtol=1e-12)
    scale = np.abs(one.moments_.scatter).max()
    assert np.abs(merged.moments_.scatter - one.moments_.scatter).max() < 1e-12 * scale
    np.testing.assert_allclose(
        merged.eigenvalues_, one.eigenvalues_, rtol=1e-12, atol=1e-13 * one.eigenvalues_[0]
    )
    files = ("a.npy", "b.npy", "c.npy")
    assert run_in_process("whiten", *files, "--workers", 2, "--save", "shared.safetensors").returncode == 0
    assert (tmp_path / "shared.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()
    assert "--workers" in fails_in_process(
        "whiten", "a.npy", "--workers", 2, "--save", "x.safetensors", status=2
    )
    np.save(tmp_path / "narrow.npy", vectors[:, :5])
    error = fails_in_process("whiten", "a.npy", "narrow.npy")
    assert "narrow.npy: 5 columns, and a.npy has 12" in error
    assert "named twice" in fails_in_process("whiten", "a.npy", "a.npy", status=2)


def test_help_of_both(run_in_process):
    assert b"ordtool whiten [OPTIONS] [NPY...]" in run_in_process("whiten", "--help").stdout
    assert b"ordtool whiten merge [OPTIONS]" in run_in_process("whiten", "merge", "--help").stdout


def test_an_output_that_is_an_input_is_refused(fails_in_process, tmp_path, vectors):
    before = (tmp_path / "x.npy").read_bytes()
    argv = ("whiten", "x.npy", "-o", "x.npy", "--force")
    assert "--output x.npy: is an input too" in fails_in_process(*argv, status=2)
    assert (tmp_path / "x.npy").read_bytes() == before


def test_few_rows_and_dead_directions_are_said(run_in_process, tmp_path, vectors):
    np.save(tmp_path / "few.npy", vectors[:5])
    few = run_in_process("whiten", "few.npy", "-o", "a.npy", "-q")
    assert few.returncode == 0
    assert few.stderr.startswith("warning: 5 rows for 12 columns: the covariance has rank 4")
    vectors[:, 3] = 0.1
    np.save(tmp_path / "dead.npy", vectors)
    dead = run_in_process("whiten", "dead.npy", "-o", "b.npy")
    assert "warning: the rank is 11 of 12 (1 of the columns are constant)" in dead.stderr
    assert "12 -> 11 columns (100.0% of the variance), rank 11 of 12" in dead.stderr
    assert np.load(tmp_path / "b.npy").shape == (ROWS, 11)


# ---------------------------------------------------------------- bad input


def save_bad_files(folder, vectors):
    bad = vectors.copy()
    bad[[3, 4500]] = np.nan
    bad[77, 2] = np.inf
    arrays = {
        "nan": bad,
        "inf": np.where(np.arange(ROWS)[:, None] == 77, np.inf, vectors),
        "one": vectors[:1],
        "equal": np.ones((50, 4)),
        "flat": vectors[0],
        "empty-rows": vectors[:0],
        "words": np.array([["a", "b"]]),
        "complex": np.ones((3, 2), dtype=complex),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    (folder / "pickle.npy").write_bytes(pickle.dumps(vectors))
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:-1000])
    (folder / "head.npy").write_bytes((folder / "x.npy").read_bytes()[:20])
    (folder / "nothing.npy").write_bytes(b"")
    (folder / "text.npy").write_bytes(b"a cat sat\n")


BAD = {
    "nan": "error: nan.npy: rows 3, 77 (counted from 0) contain NaN or inf (NaN in row 3)",
    "inf": "error: inf.npy: row 77 (counted from 0) contains NaN or inf (infinity in row 77)",
    "one": "error: one.npy: a covariance needs at least two rows",
    "equal": "error: equal.npy: all 50 rows are equal",
    "flat": "has shape (12,), and 2 dimension(s) are expected",
    "empty-rows": "found array with 0 sample(s)",
    "words": "real numbers are expected",
    "complex": "real numbers are expected",
    "objects": "holds Python objects, which ordtool never loads",
    "pickle": "looks like a pickle",
    "cut": "truncated or damaged NPY file",
    "head": "truncated or damaged NPY file",
    "nothing": "it is empty",
    "text": "not an NPY file",
    "missing": "no such file",
}


def test_bad_arrays_are_refused_in_one_line(fails_in_process, tmp_path, vectors):
    save_bad_files(tmp_path, vectors)
    before = sorted(tmp_path.iterdir())
    for name, message in BAD.items():
        assert message in fails_in_process("whiten", f"{name}.npy", "-o", "w.npy", "--save", "t.safetensors")
    assert sorted(tmp_path.iterdir()) == before, "nothing half-written is left"


@pytest.mark.parametrize("name", ["cut", "objects", "text", "nothing"])
def test_bad_pipes_are_refused_in_one_line(fails_in_process, tmp_path, vectors, name):
    save_bad_files(tmp_path, vectors)
    assert "error: <stdin>: " in fails_in_process(
        "whiten", "-o", "w.npy", stdin=(tmp_path / f"{name}.npy").read_bytes()
    )
    assert not (tmp_path / "w.npy").exists()


def test_bad_transforms_are_refused(fails_in_process, run_in_process, tmp_path, vectors):
    save_bad_files(tmp_path, vectors)
    run_in_process("whiten", "x.npy", "--save", "t.safetensors")
    np.save(tmp_path / "narrow.npy", vectors[:, :7])
    message = fails_in_process("whiten", "narrow.npy", "--transform", "t.safetensors", "-o", "w.npy")
    assert "error: narrow.npy: 7 columns, and the transform t.safetensors takes 12" in message
    assert "fitted on x.npy (6,000 rows)" in message
    assert "row 77 " in fails_in_process("whiten", "inf.npy", "--transform", "t.safetensors", "-o", "w.npy")
    assert "pickle, which ordtool never loads" in fails_in_process(
        "whiten", "x.npy", "--transform", "pickle.npy"
    )
    fails_in_process("whiten", "merge", "t.safetensors", "x.npy", "-o", "m.safetensors")
    fails_in_process("whiten", "merge", "t.safetensors", "-o", "m.safetensors", status=2)
    assert not (tmp_path / "w.npy").exists()
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--method", "pcaa"), "did you mean 'pca'"),
        (("--dims", 0), "--dims"),
        (("--dims", 3, "--method", "zca"), "--dims goes with --method pca"),
        (("--shrinkage", "much"), "shrinkage must be a number from 0 to 1, or 'oas'"),
        (("--shrinkage", "nan"), "shrinkage must be a number"),
        (("--precision", "bf16"), "unknown precision 'bf16'"),
        (("--export", "e"), "--export and --model go together"),
        (("--pooling", "cls"), "--pooling is for --export"),
        (("--remove", 2), "--remove goes with --method abtt"),
    ],
    ids=str,
)
def test_options_without_meaning_are_usage_errors(fails_in_process, vectors, argv, message):
    assert message in fails_in_process("whiten", "x.npy", *argv, status=2)


def test_existing_outputs_are_kept(fails_in_process, tmp_path, vectors):
    for option in ("-o", "--save"):
        (tmp_path / "there").write_text("mine")
        assert "exists already" in fails_in_process("whiten", "x.npy", option, "there")
        assert (tmp_path / "there").read_text() == "mine"
    assert "mkdir -p" in fails_in_process("whiten", "x.npy", "-o", "no/such/folder.npy")


def test_too_large_for_float16(fails_in_process, tmp_path, vectors):
    np.save(tmp_path / "big.npy", vectors * 1e6)
    assert "beyond float16" in fails_in_process(
        "whiten", "big.npy", "--gamma", 0, "--precision", "float16", "-o", "w.npy"
    )


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_nothing(fails_in_subprocess, run, tmp_path, vectors):
    with small_disk(tmp_path / "disk", "64k") as disk:
        for argv in (
            ("-o", disk / "w.npy"),
            ("--save", disk / "t", "--precision", "float16", "-o", disk / "w.npy"),
        ):
            assert "no space left" in fails_in_subprocess("whiten", "x.npy", *argv)
        assert [path.name for path in disk.iterdir()] == ["t"], (
            "what was complete stays, what was not is gone"
        )
        data = (tmp_path / "x.npy").read_bytes()
        message = fails_in_subprocess(
            "whiten", "-o", tmp_path / "w.npy", stdin=data, env={"TMPDIR": str(disk)}
        )
        assert "no space left" in message
        assert "TMPDIR" in message
    assert not (tmp_path / "w.npy").exists()


def test_memory_does_not_grow_with_the_file(tmp_path):
    """200 MB of vectors within 120 MB over what the program needs for a small file."""
    resource = pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip("ru_maxrss counts differently here")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "small.npy", rng.standard_normal((1000, 256), dtype=np.float32))
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (200_000, 256))
    for start in range(0, len(large), 20_000):
        large[start : start + 20_000] = rng.standard_normal((20_000, 256), dtype=np.float32)
    large.flush()
    code = (
        "import resource, sys\nfrom ordtool.cli.app import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for name in ("small", "large"):
        argv = [
            sys.executable,
            "-c",
            code,
            "whiten",
            tmp_path / f"{name}.npy",
            "-o",
            tmp_path / f"w-{name}.npy",
        ]
        peaks.append(int(subprocess.run(argv, capture_output=True, check=True).stdout) * 1024)
    assert peaks[1] - peaks[0] < 120e6, [f"{peak / 1e6:.0f} MB" for peak in peaks]
    assert resource


def test_the_spectrum_is_drawn(run_in_process, tmp_path, vectors):
    pytest.importorskip("matplotlib")
    from ordtool.embedding.whitening import Whitening
    from ordtool.embedding.whitening_plot import draw_spectrum, spectra

    done = run_in_process(
        "whiten", "x.npy", "--dims", 3, "--gamma", 0.5, "--plot", "s.svg", "--save", "t.safetensors"
    )
    assert done.returncode == 0 and done.stdout == b""
    assert b"<svg" in (tmp_path / "s.svg").read_bytes()
    whitening = Whitening.load(tmp_path / "t.safetensors")
    rows = vectors
    before, after = spectra(whitening)
    for values, shown in ((before, rows), (after, whitening.transform(rows))):
        expected = np.linalg.eigvalsh(np.cov(shown.astype("f8").T))[::-1]
        np.testing.assert_allclose(values, expected / expected[0], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(after, np.sqrt(before[:3]), rtol=1e-4)
    raw, whitened = draw_spectrum(whitening).axes[0].lines[:2]
    assert len(whitened.get_ydata()) == 3 and (raw.get_label(), whitened.get_label()) == (
        "as fitted on",
        "whitened",
    )
