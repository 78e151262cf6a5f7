"""Whitening a large NPY file: ordtool beside scikit-learn's PCA and IncrementalPCA and faiss's PCAMatrix.

Every contender reads the same file, fits on all rows, whitens all rows and writes an NPY file. Each run is a process
of its own, so that its peak memory is its own; the contenders take turns, and medians are compared. Seconds are
those from opening the input to the closed output, without imports. The output is then checked in float64.

    python benchmarks/whiten.py                      # 2,000,000 x 384, about 6 GB of temporary files
    python benchmarks/whiten.py --rows 200000 --repeats 1
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

CONTENDERS = ("ordtool", "sklearn IncrementalPCA", "sklearn PCA", "faiss PCAMatrix")
BLOCK = 16_384


def make_vectors(path: Path, rows: int, dim: int, weakest: float) -> None:
    """Correlated float32 vectors with a mean: variances fall from 1 to `weakest`, along random directions."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    basis = (np.sqrt(np.geomspace(1, weakest, dim))[:, None] * rotation).astype(np.float32)
    mean = rng.standard_normal(dim).astype(np.float32)
    with open(path, "wb") as file:
        write_header(file, rows, dim)
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            file.write((rng.standard_normal((count, dim), dtype=np.float32) @ basis + mean).data)
        os.fsync(file.fileno())


def write_header(file, rows: int, dim: int) -> None:
    """The header of a float32 NPY file."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})


# ---------------------------------------------------------------- the contenders


def run_ordtool(source: Path, output: Path):
    """The engine, as the command runs it."""
    from ordtool.embedding.whitening_job import WhitenConfig, whiten

    return lambda: whiten(WhitenConfig(str(source), output))


def run_incremental_pca(source: Path, output: Path):
    """Scikit-learn, in batches over a memory map."""
    from sklearn.decomposition import IncrementalPCA

    def run() -> None:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
        model = IncrementalPCA(whiten=True).fit(array)  # its own batches: five times as many rows as columns
        write_blocks(output, array.shape, (model.transform(block) for block in blocks(array)))

    return run


def run_pca(source: Path, output: Path):
    """Scikit-learn, all rows in memory."""
    from sklearn.decomposition import PCA

    def run() -> None:
        array = np.load(source, allow_pickle=False)  # it needs all rows in memory
        model = PCA(whiten=True).fit(array)
        write_blocks(output, array.shape, (model.transform(block) for block in blocks(array)))

    return run


def run_faiss(source: Path, output: Path):
    """Faiss, all rows in memory."""
    import faiss

    def run() -> None:
        array = np.load(source, allow_pickle=False)
        rows, dim = array.shape
        model = faiss.PCAMatrix(dim, dim, -0.5)
        model.max_points_per_d = rows  # by default it looks at 1,000 rows a column only
        model.train(array)
        write_blocks(output, array.shape, (model.apply(block) for block in blocks(array)))

    return run


RUNNERS = dict(zip(CONTENDERS, (run_ordtool, run_incremental_pca, run_pca, run_faiss), strict=True))


def blocks(array: np.ndarray):
    """The rows, piece by piece."""
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]


def write_blocks(path: Path, shape: tuple[int, int], pieces) -> None:
    """Write and flush to the disk, as ordtool does."""
    with open(path, "wb") as file:
        write_header(file, *shape)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype=np.float32).data)
        file.flush()
        os.fsync(file.fileno())


def work(contender: str, source: Path, output: Path) -> None:
    """One run in this process; prints what it took."""
    run = RUNNERS[contender](source, output)
    peak = AnonymousMemory()
    start, busy = time.perf_counter(), time.process_time()
    with peak:
        run()
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - busy,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "peak_anonymous_mb": peak.megabytes,
            }
        )
    )


class AnonymousMemory:
    """Samples this process's memory without the pages of mapped files."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            status = Path("/proc/self/status").read_text()
            self.megabytes = max(self.megabytes, int(status.split("RssAnon:")[1].split()[0]) / 1024)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


# ---------------------------------------------------------------- the checks


def identity_errors(path: Path) -> dict[str, float]:
    """Largest deviation of the covariance from the identity, added up in float64; and from a multiple of it.

    faiss scales by the square root of the number of rows, which cosines don't see.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    total, product = np.zeros(array.shape[1]), np.zeros((array.shape[1],) * 2)
    for block in blocks(array):
        wide = block.astype(np.float64)
        total += wide.sum(axis=0)
        product += wide.T @ wide
    mean = total / len(array)
    covariance = (product - len(array) * np.outer(mean, mean)) / (len(array) - 1)
    identity = np.eye(len(mean))
    scaled = covariance / np.diagonal(covariance).mean()
    return {
        "identity_error": float(np.abs(covariance - identity).max()),
        "identity_error_scaled": float(np.abs(scaled - identity).max()),
    }


def svd_error(source: Path, rows: int) -> float:
    """Largest difference to a float64 SVD on the first rows, in units of the result's standard deviation, 1."""
    from ordtool.embedding.whitening import Whitening

    subset = np.array(np.load(source, mmap_mode="r", allow_pickle=False)[:rows])
    wide = subset.astype(np.float64)
    left, _, _ = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    white = Whitening().fit_transform(subset)
    expected = left * np.sqrt(rows - 1) * np.sign((left * white).sum(axis=0))
    return float(np.abs(white - expected).max())


def merge_error(source: Path) -> dict[str, float]:
    """Four uneven shards merged against one pass: mean and covariance, in units of the largest variance."""
    from ordtool.embedding.statistics import accumulate

    array = np.load(source, mmap_mode="r", allow_pickle=False)
    whole = accumulate(array)
    cuts = [0, len(array) // 17, len(array) // 3, len(array) // 3 + 5001, len(array)]
    merged = accumulate(array[cuts[0] : cuts[1]])
    for start, stop in zip(cuts[1:-1], cuts[2:], strict=True):
        merged.merge(accumulate(array[start:stop]))
    one, two = whole.covariance(), merged.covariance()
    scale = float(np.diagonal(one).max())
    values = [np.linalg.eigvalsh(matrix) for matrix in (one, two)]
    return {
        "mean": float(np.abs(whole.mean - merged.mean).max() / np.sqrt(scale)),
        "covariance": float(np.abs(one - two).max() / scale),
        "eigenvalues": float(np.abs(values[1] / values[0] - 1).max()),
    }


# ---------------------------------------------------------------- the run


def machine() -> dict[str, object]:
    """Where this ran."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = {}
    for package in ("ordtool", "numpy", "scikit-learn", "faiss-cpu"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed" if package != "ordtool" else "source"
    return {
        "machine": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **versions,
    }


def measure(names: list[str], source: Path, output: Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """All contenders in turn, `repeats` times; the last output of each is checked."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names:
            command = [sys.executable, __file__, "--work", name, str(source), str(output)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                runs[name].append({})
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            if repeat == repeats - 1:
                result |= identity_errors(output)
            output.unlink()
            runs[name].append(result)
            print(f"round {repeat + 1}: {name} {result['seconds']:.1f} s", file=sys.stderr)
    return runs


def report(runs: dict[str, list[dict[str, float]]], rows: int, dim: int, where: dict[str, object]) -> None:
    """A table for people and a JSON line a row."""
    medians = {
        name: {
            key: statistics.median(run[key] for run in results)
            for key in results[0]
            if not key.startswith("identity")
        }
        for name, results in runs.items()
        if all(results)
    }
    print(f"{rows:,} x {dim} float32, whitened to {dim} columns; medians; {where}")
    print(
        f"{'contender':24}{'seconds':>9}{'cpu s':>9}{'x ours':>8}{'peak MB':>9}{'anon MB':>9}{'|cov - I|':>11}{'scaled':>10}"
    )
    for name, row in medians.items():
        error, scaled = (runs[name][-1][key] for key in ("identity_error", "identity_error_scaled"))
        ratio = row["seconds"] / medians["ordtool"]["seconds"]
        print(
            f"{name:24}{row['seconds']:9.1f}{row['cpu_seconds']:9.1f}{ratio:8.2f}"
            f"{row['peak_memory_mb']:9.0f}{row['peak_anonymous_mb']:9.0f}{error:11.1e}{scaled:10.1e}"
        )
    for name, row in medians.items():
        line = {
            "benchmark": "whiten",
            "contender": name,
            "rows": rows,
            "dim": dim,
            **{key: round(value, 2) for key, value in row.items()},
            "ratio": round(row["seconds"] / medians["ordtool"]["seconds"], 3),
            "runs": [round(run["seconds"], 2) for run in runs[name]],
            **{key: value for key, value in runs[name][-1].items() if key.startswith("identity")},
            **where,
        }
        print(json.dumps(line))


def main() -> None:
    """Make the vectors, run the contenders in turn, check and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--weakest", type=float, default=0.01, help="smallest variance beside the largest, 1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--folder", help="for the temporary files")
    parser.add_argument("--no-checks", action="store_true", help="leave out the SVD and the merge")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], *map(Path, options.work[1:]))
        return
    where = machine()
    with tempfile.TemporaryDirectory(prefix="ordtool-whiten-", dir=options.folder) as folder:
        source, output = Path(folder) / "x.npy", Path(folder) / "y.npy"
        make_vectors(source, options.rows, options.dim, options.weakest)
        report(measure(options.contenders, source, output, options.repeats), options.rows, options.dim, where)
        if not options.no_checks:
            rows = min(50_000, options.rows)
            svd, merged = svd_error(source, rows), merge_error(source)
            print(f"largest difference to a float64 SVD on {rows:,} rows: {svd:.1e} standard deviations")
            print(
                f"four shards merged beside one pass, relative: {', '.join(f'{k} {v:.1e}' for k, v in merged.items())}"
            )
            print(
                json.dumps(
                    {
                        "benchmark": "whiten checks",
                        "svd_rows": rows,
                        "svd_error": svd,
                        "merge_error": merged,
                        **where,
                    }
                )
            )


if __name__ == "__main__":
    main()
