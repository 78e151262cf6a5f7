"""Independence tests: ordtool beside hyppo and causal-learn's KCI: speed, memory, level and power.

Speed without the right p-value is worth nothing, so all four are measured by one script:

    python benchmarks/hsic.py speed          # n = 1,000, 3,000, 10,000: a permutation, a whole test, peak memory
    python benchmarks/hsic.py scale          # n = 50,000, d = 384, beside the two matrix products it can't do without
    python benchmarks/hsic.py level          # rejection at 5% under independence, 1,000 draws
    python benchmarks/hsic.py power          # rejection at 5% under four kinds of dependence
    python benchmarks/hsic.py given-level    # the conditional test: rejection at 5% under independence given z
    python benchmarks/hsic.py given-power    # ... and under dependence
    python benchmarks/hsic.py given-speed    # ... seconds at n = 1,000 and 3,000

Each timing is a process of its own, so that its peak memory is its own; the contenders take turns, and the
fastest of the repeats counts: wall clock, and CPU seconds beside it, since other programs may run. hyppo's
permutations are extrapolated: the time of 4 is taken from that of 20 (of 1 from 3 at n = 10,000), with one
worker and with two, and the faster of these is quoted. Prints a JSON line a row, then a table in Markdown. Needs
`pip install hyppo causal-learn`; without them their rows are left out.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

PERMUTATIONS = 1000
LEVEL = 0.05


def main() -> None:
    """Read what is asked, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = {"given-level": given_level, "given-power": given_power, "given-speed": given_speed}
    parts = {"speed": speed, "scale": scale, "level": level, "power": power} | given
    parser.add_argument("part", choices=[*parts, "worker"])
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--draws", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--cases", nargs="+", help="titles of cases, for given-level")
    parser.add_argument("--work", help="what a worker does, as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.part == "worker":
        worker(**json.loads(options.work))
        return
    print(json.dumps(machine()))
    parts[options.part](options)


def machine() -> dict:
    """What it runs on."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as info:
            model = next(
                (line.split(":")[1].strip() for line in info if line.startswith("model name")), model
            )
    versions = {"python": platform.python_version()}
    for name in ("ordtool", "numpy", "scipy", "hyppo", "causal-learn"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "from source" if name == "ordtool" else None
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), **versions}


# ---------------------------------------------------------------- speed


def pair(rows: int, dim: int, seed: int = 0):
    """Two vectors that share a little of their first coordinate, float64 as numpy draws them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, dim))
    y = rng.standard_normal((rows, dim))
    y[:, 0] += 0.5 * x[:, 0]
    return x, y


def ordtool_test(x, y, **options):
    """Any of ours."""
    from ordtool.independence.hsic import hsic

    return lambda: hsic(x, y, **options).p_value


def hyppo_chi2(x, y):
    """The default of hyppo above 20 rows."""
    from hyppo.independence import Hsic

    return lambda: Hsic().test(x, y, auto=True)[1]


def hyppo_permutations(x, y, reps: int, workers: int):
    """The permutation test of hyppo."""
    from hyppo.independence import Hsic

    return lambda: Hsic().test(x, y, auto=False, reps=reps, workers=workers)[1]


def kci(x, y):
    """causal-learn's unconditional KCI with its gamma approximation, bandwidth by the median."""
    from causallearn.utils.KCI.KCI import KCI_UInd

    return lambda: KCI_UInd(est_width="median", approx=True).compute_pvalue(x, y)[0]


MAKERS = {
    "ordtool": ordtool_test,
    "hyppo_chi2": hyppo_chi2,
    "hyppo_permutations": hyppo_permutations,
    "kci": kci,
}


def worker(maker: str, rows: int, dim: int, dtype: str, repeats: int, **options) -> None:
    """Time one contender in this process; prints JSON."""
    x, y = (v.astype(dtype) for v in pair(rows, dim))
    run = MAKERS[maker](x, y, **options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, busy = [], []
    for _ in range(repeats):
        start, work = time.perf_counter(), time.process_time()
        p_value = run()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - work)
    peak = (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        / 1024
    )
    found = {
        "seconds": min(seconds),
        "cpu_seconds": min(busy),
        "p_value": float(p_value),
        "peak_mb": peak,
        "data_mb": before,
    }
    print(json.dumps(found))


def measured(maker: str, rows: int, dim: int, dtype: str = "float64", repeats: int = 3, **options) -> dict:
    """Run a worker and read what it measured."""
    work = json.dumps(dict(maker=maker, rows=rows, dim=dim, dtype=dtype, repeats=repeats, **options))
    done = subprocess.run(
        [sys.executable, __file__, "worker", "--work", work], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().split("\n")[-1])


def speed(options) -> None:
    """A permutation, a whole test, peak memory."""
    rows = []
    peers = find_spec("hyppo") is not None
    for n in options.rows or [1000, 3000, 10_000]:
        common = {"rows": n, "dim": options.dim, "repeats": options.repeats if n < 10_000 else 1}
        tests = {
            "ordtool permutation": dict(maker="ordtool", test="permutation", permutations=PERMUTATIONS),
            "ordtool permutation, float32": dict(
                maker="ordtool", test="permutation", permutations=PERMUTATIONS, dtype="float32"
            ),
            "ordtool permutation, independent": dict(
                maker="ordtool", test="permutation", permutations=PERMUTATIONS, scheme="independent"
            ),
            "ordtool gamma": dict(maker="ordtool", test="gamma"),
            "ordtool gamma, float32": dict(maker="ordtool", test="gamma", dtype="float32"),
            "ordtool aggregated, 25 kernels": dict(
                maker="ordtool", test="aggregated", permutations=PERMUTATIONS
            ),
        }
        if peers:
            tests["hyppo permutation"] = {}
            tests["hyppo chi-square"] = dict(maker="hyppo_chi2")
        if find_spec("causallearn") is not None and n <= 3000:
            tests["causal-learn KCI, gamma"] = dict(maker="kci")
        for name, test in tests.items():
            if options.only and name not in options.only:
                continue
            if name == "ordtool permutation, independent" and n > 3000:
                continue
            if name == "hyppo permutation":
                row = hyppo_row(common)
            else:
                repeats = 1 if test.get("scheme") == "independent" else common["repeats"]
                kept = {**common, **test, "repeats": repeats, "dtype": "float64"}
                if test.get("dtype") == "float32":
                    kept["dtype"] = "float32"
                found = measured(**kept)
                row = {key: found[key] for key in ("seconds", "cpu_seconds", "peak_mb", "p_value")}
            row = {"test": name, "n": n, "d": options.dim, **row}
            if "permutation" in name:
                row.setdefault("ms_a_permutation", 1000 * row["seconds"] / PERMUTATIONS)
            print(json.dumps(row), flush=True)
            rows.append(row)
    columns = ["test", "n", "d", "seconds", "cpu_seconds", "ms_a_permutation", "peak_mb", "p_value"]
    print_markdown(columns, rows)


def hyppo_row(common: dict) -> dict:
    """A permutation's time from the difference of many and few, with one worker and two; the test's from that."""
    few, many = (4, 20) if common["rows"] < 10_000 else (1, 3)
    best = None
    for workers in (1, 2):
        times, busy = {}, {}
        for reps in (few, many):
            found = measured(
                **{**common, "repeats": 2 if common["rows"] < 3000 else 1},
                maker="hyppo_permutations",
                reps=reps,
                workers=workers,
            )
            times[reps] = found["seconds"]
            busy[reps] = found["cpu_seconds"]
        each = (times[many] - times[few]) / (many - few)
        row = {
            "seconds": times[few] + each * (PERMUTATIONS - few),
            "ms_a_permutation": 1000 * each,
            # joblib's processes don't show in the CPU time of this one.
            "cpu_seconds": busy[few] + (busy[many] - busy[few]) / (many - few) * (PERMUTATIONS - few)
            if workers == 1
            else None,
            "peak_mb": found["peak_mb"],
            "workers": workers,
        }
        best = row if best is None or row["seconds"] < best["seconds"] else best
    return best


# ---------------------------------------------------------------- scale


def scale(options) -> None:
    """The exact statistic and p-value of 50,000 rows, beside the two matrix products of all pairs."""
    n, dim = (options.rows or [50_000])[0], options.dim if options.dim != 64 else 384
    floor = two_products(n, dim)
    rows = []
    for name, test in (
        ("gamma", dict(test="gamma")),
        ("permutation", dict(test="permutation", permutations=PERMUTATIONS)),
        ("gamma, 1,000 random features", dict(test="gamma", random_features=1000)),
        ("block", dict(test="block")),
    ):
        if options.only and name not in options.only:
            continue
        found = measured("ordtool", n, dim, dtype="float32", repeats=1, **test)
        row = {
            "test": name,
            "n": n,
            "d": dim,
            "seconds": found["seconds"],
            "cpu_seconds": found["cpu_seconds"],
            "floor_seconds": floor,
            "ratio": found["seconds"] / floor,
            "peak_mb": found["peak_mb"],
            "p_value": found["p_value"],
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    print_markdown(list(rows[0]), rows)


def two_products(n: int, dim: int) -> float:
    """Seconds of X X^T and Y Y^T in float32, every pair once in either order, by numpy on all cores."""
    x = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
    out = np.empty((2048, n), dtype=np.float32)
    start = time.perf_counter()
    for first in range(0, n, 2048):
        block = x[first : first + 2048]
        np.matmul(block, x.T, out=out[: len(block)])
    return 2 * (time.perf_counter() - start)


# ---------------------------------------------------------------- level and power


def independent(rng, n):
    """Normal in few dimensions."""
    return rng.standard_normal((n, 2)), rng.standard_normal((n, 3))


def independent_wide(rng, n):
    """Normal in many dimensions."""
    return rng.standard_normal((n, 64)), rng.standard_normal((n, 64))


def independent_labels(rng, n):
    """Classes that say nothing."""
    return rng.standard_normal((n, 8)), np.eye(4)[rng.integers(0, 4, n)]


def independent_heavy(rng, n):
    """Heavy tails."""
    return rng.standard_t(2, (n, 2)), rng.standard_t(2, (n, 2))


def linear(rng, n):
    """A correlation of about 0.24."""
    x = rng.standard_normal((n, 1))
    return x, 0.25 * x + rng.standard_normal((n, 1))


def circle(rng, n):
    """A noisy circle: uncorrelated."""
    angle = rng.uniform(0, 2 * np.pi, (n, 1))
    return np.cos(angle) + 0.4 * rng.standard_normal((n, 1)), np.sin(angle) + 0.4 * rng.standard_normal(
        (n, 1)
    )


def sine(rng, n):
    """Four waves."""
    x = rng.uniform(-np.pi, np.pi, (n, 1))
    return x, np.sin(4 * x) + 0.5 * rng.standard_normal((n, 1))


def xor(rng, n):
    """The sign of a product: y depends on neither coordinate alone."""
    x = rng.standard_normal((n, 2))
    return x, np.sign(x[:, :1] * x[:, 1:]) * np.abs(rng.standard_normal((n, 1))) + rng.standard_normal((n, 1))


def gretton_gamma(x, y) -> float:
    """The two-moment gamma approximation as published (Gretton et al. 2007), for comparison."""
    from scipy.special import gammaincc

    from ordtool.independence.kernels import fit_kernel

    n = len(x)
    k, l_ = (fit_kernel(v).block(slice(0, n), slice(0, n)) for v in (x, y))
    h = np.eye(n) - 1 / n
    kc, lc = h @ k @ h, h @ l_ @ h
    statistic = (kc * l_).sum() / n
    products = (kc * lc / 6) ** 2
    variance = (products.sum() - np.trace(products)) / n / (n - 1)
    variance *= 72 * (n - 4) * (n - 5) / n / (n - 1) / (n - 2) / (n - 3)
    off = [(m.sum() - np.trace(m)) / n / (n - 1) for m in (k, l_)]
    mean = (1 + off[0] * off[1] - off[0] - off[1]) / n
    shape = mean**2 / variance
    return float(gammaincc(shape, statistic * mean / (variance * n)))


def contenders(only) -> dict:
    """Functions of (x, y, seed) to a p-value."""
    from ordtool.independence.hsic import hsic

    def ours(**options):
        return lambda x, y, seed: hsic(x, y, seed=seed, threads=1, **options).p_value

    found = {
        "permutation": ours(permutations=199),
        "permutation, independent": ours(permutations=199, scheme="independent"),
        "permutation, biased": ours(permutations=199, estimator="biased"),
        "gamma": ours(test="gamma"),
        "gamma, biased": ours(test="gamma", estimator="biased"),
        "gamma, linear kernel": ours(test="gamma", kernel="linear"),
        "gamma, laplacian kernel": ours(test="gamma", kernel="laplacian"),
        "gamma, 100 random features": ours(test="gamma", random_features=100),
        "permutation, 100 random features": ours(permutations=199, random_features=100),
        "aggregated, 25 kernels": ours(test="aggregated", permutations=199),
        "block, groups of n / 8": lambda x, y, seed: (
            hsic(x, y, seed=seed, threads=1, test="block", group_rows=len(x) // 8).p_value
        ),
        "two-moment gamma (Gretton 2007)": lambda x, y, seed: gretton_gamma(x, y),
    }
    if find_spec("hyppo") is not None:
        found["hyppo chi-square"] = lambda x, y, seed: hyppo_chi2(x, y)()
    if find_spec("causallearn") is not None:
        found["causal-learn KCI, gamma"] = lambda x, y, seed: kci(x, y)()
    return {name: test for name, test in found.items() if not only or name in only}


def rejection(test, draw, n: int, draws: int) -> float:
    """The share of draws whose p-value is at most 5%."""
    hits = 0
    for index in range(draws):
        x, y = draw(np.random.default_rng([n, index]), n)
        hits += test(x, y, index) <= LEVEL
    return hits / draws


def level(options) -> None:
    """Rejection under independence."""
    from scipy.stats import binom

    draws = options.draws or 1000
    low, high = (binom.ppf(q, draws, LEVEL) / draws for q in (0.005, 0.995))
    cases = [
        ("normal, d = 2 and 3, n = 100", independent, 100),
        ("normal, d = 64 and 64, n = 100", independent_wide, 100),
        ("4 labels against d = 8, n = 100", independent_labels, 100),
        ("Student's t(2), d = 2 and 2, n = 100", independent_heavy, 100),
        ("normal, d = 2 and 3, n = 30", independent, 30),
    ]
    rows = []
    for name, test in contenders(options.only).items():
        row = {"test": name}
        for title, draw, n in cases:
            if n < 64 and name.startswith("block"):
                row[title] = None
                continue
            row[title] = rejection(test, draw, n, draws)
        print(json.dumps({**row, "draws": draws, "interval": [low, high]}), flush=True)
        rows.append(row)
    shown = [
        {
            key: value if isinstance(value, str) or value is None else mark(value, low, high)
            for key, value in row.items()
        }
        for row in rows
    ]
    print(
        f"\nInside the binomial 99% interval for 5%: {100 * low:.1f}% to {100 * high:.1f}% of {draws} draws; ! is outside\n"
    )
    print_markdown(list(rows[0]), shown)


def mark(share: float, low: float, high: float) -> str:
    """A share in percent, marked where it is out of the interval."""
    return f"{100 * share:.1f}%" + ("" if low <= share <= high else " !")


def power(options) -> None:
    """Rejection under dependence."""
    draws = options.draws or 200
    cases = {"linear": (linear, 100), "circle": (circle, 100), "sine": (sine, 150), "xor": (xor, 100)}
    rows = []
    for name, test in contenders(options.only).items():
        row = {"test": name}
        for title, (draw, n) in cases.items():
            row[f"{title}, n = {n}"] = rejection(test, draw, n, draws)
        print(json.dumps({**row, "draws": draws}), flush=True)
        rows.append(
            {key: value if isinstance(value, str) else f"{100 * value:.0f}%" for key, value in row.items()}
        )
    print(f"\nRejection at 5%, {draws} draws\n")
    print_markdown(list(rows[0]), rows)


# ---------------------------------------------------------------- conditional independence


def chain(rng, n):
    """Curves of z with noise."""
    z = rng.standard_normal((n, 1))
    return (
        np.sin(2 * z) + z + 0.5 * rng.standard_normal((n, 1)),
        np.tanh(2 * z) + 0.5 * rng.standard_normal((n, 1)),
        z,
    )


def chain_uneven(rng, n):
    """The same, but z sets the size of both noises, so that they depend on each other until z is known."""
    z = rng.uniform(-2, 2, (n, 1))
    size = 0.2 + np.abs(z)
    return np.sin(3 * z) + size * rng.standard_normal((n, 1)), z**2 + size * rng.standard_normal((n, 1)), z


def chain_of_three(rng, n):
    """Three dimensions of z, and x their interaction."""
    z = rng.standard_normal((n, 3))
    x = z[:, :1] * z[:, 1:2] + 0.5 * rng.standard_normal((n, 1))
    return x, np.sin(z.sum(axis=1, keepdims=True)) + 0.5 * rng.standard_normal((n, 1)), z


def chain_of_labels(rng, n):
    """One of four classes for z; the noise of y has heavy tails, and a size that goes by the class."""
    label = rng.integers(0, 4, n)[:, None]
    x = 1.5 * (label % 2) + rng.standard_normal((n, 2))
    return x, label + (1 + label) * rng.standard_t(3, (n, 1)), np.eye(4)[label[:, 0]]


def waves(rng, n):
    """A fast wave of z in x and y, which a smooth regression hardly follows."""
    z = rng.uniform(-3, 3, (n, 1))
    wave = np.sin(8 * z)
    return wave + 0.3 * rng.standard_normal((n, 1)), wave + 0.3 * rng.standard_normal((n, 1)), z


def chain_of_ten(rng, n):
    """Ten dimensions of z, and a curve of their sum in x and y."""
    z = rng.standard_normal((n, 10))
    curve = np.sin(z.sum(axis=1, keepdims=True))
    return curve + 0.3 * rng.standard_normal((n, 1)), curve + 0.3 * rng.standard_normal((n, 1)), z


def direct_link(rng, n):
    """The noise of x is a part of y."""
    z, noise = rng.standard_normal((n, 1)), rng.standard_normal((n, 1))
    y = np.tanh(2 * z) + 0.1 * noise + 0.5 * rng.standard_normal((n, 1))
    return np.sin(2 * z) + z + 0.5 * noise, y, z


def size_link(rng, n):
    """The noise of x is the size of y's."""
    z, noise = rng.standard_normal((n, 1)), rng.standard_normal((n, 1))
    return z + noise, z + (0.3 + 0.5 * np.abs(noise)) * rng.standard_normal((n, 1)), z


def given_contenders(only, permutations: int = 199) -> dict:
    """Functions of (x, y, z, seed) to a p-value."""
    from ordtool.independence.hsic import hsic

    def ours(test):
        return lambda x, y, z, seed: (
            hsic(x, y, given=z, test=test, permutations=permutations, seed=seed).p_value
        )

    found = {"gamma": ours("gamma"), "permutation": ours("permutation")}
    if find_spec("causallearn") is not None:
        from causallearn.utils.KCI.KCI import KCI_CInd

        found["causal-learn KCI, gamma"] = lambda x, y, z, seed: KCI_CInd().compute_pvalue(x, y, z)[0]
    return {name: test for name, test in found.items() if not only or name in only}


def given_rejection(cases: dict, n: int, draws: int, only) -> list[dict]:
    """A row a contender: the share of draws whose p-value is at most 5%, for each case; the contenders take turns."""
    contenders = given_contenders(only)
    rows = [{"test": name} for name in contenders]
    for title, draw in cases.items():
        hits, seconds = dict.fromkeys(contenders, 0), dict.fromkeys(contenders, 0.0)
        for index in range(draws):
            x, y, z = draw(np.random.default_rng([n, index]), n)
            for name, test in contenders.items():
                start = time.process_time()
                hits[name] += test(x, y, z, index) <= LEVEL
                seconds[name] += time.process_time() - start
        for row in rows:
            row[title] = hits[row["test"]] / draws
            done = {"test": row["test"], "case": title, "n": n, "draws": draws, "rejected": row[title]}
            print(json.dumps({**done, "cpu_ms": 1000 * seconds[row["test"]] / draws}), flush=True)
    return rows


def given_level(options) -> None:
    """Rejection under independence given z, and two cases in which the regression on z is too hard."""
    from scipy.stats import binom

    draws, n = options.draws or 1000, (options.rows or [200])[0]
    low, high = (binom.ppf(q, draws, LEVEL) / draws for q in (0.005, 0.995))
    cases = {
        "curves of z": chain,
        "z sets the noise": chain_uneven,
        "z in three dimensions": chain_of_three,
        "z is a class": chain_of_labels,
        "a fast wave of z": waves,
        "z in ten dimensions": chain_of_ten,
    }
    if options.cases:
        cases = {title: draw for title, draw in cases.items() if title in options.cases}
    rows = given_rejection(cases, n, draws, options.only)
    interval = f"{100 * low:.1f}% to {100 * high:.1f}%"
    print(f"\nn = {n}; inside the binomial 99% interval for 5%: {interval} of {draws} draws; ! is outside\n")
    print_markdown(
        list(rows[0]),
        [{key: mark(v, low, high) if key != "test" else v for key, v in row.items()} for row in rows],
    )


def given_power(options) -> None:
    """Rejection under dependence given z."""
    draws, n = options.draws or 200, (options.rows or [200])[0]
    rows = given_rejection({"direct": direct_link, "by size": size_link}, n, draws, options.only)
    print(f"\nRejection at 5%, n = {n}, {draws} draws\n")
    print_markdown(
        list(rows[0]), [{k: f"{100 * v:.0f}%" if k != "test" else v for k, v in row.items()} for row in rows]
    )


def given_speed(options) -> None:
    """Seconds of a conditional test, the contenders in turn; a thousand permutations."""
    rows = []
    for n in options.rows or [1000, 3000]:
        x, y, z = direct_link(np.random.default_rng(n), n)
        for name, test in given_contenders(options.only, PERMUTATIONS).items():
            start, work = time.perf_counter(), time.process_time()
            p_value = float(test(x, y, z, 0))
            busy, seconds = time.process_time() - work, time.perf_counter() - start
            rows.append({"test": name, "n": n, "seconds": seconds, "cpu_seconds": busy, "p_value": p_value})
            print(json.dumps(rows[-1]), flush=True)
    print_markdown(list(rows[0]), rows)


def print_markdown(columns: list[str], rows: list[dict]) -> None:
    """A table in Markdown."""
    print("\n| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(shown(row.get(column)) for column in columns) + " |")


def shown(value) -> str:
    """A cell."""
    if value is None:
        return ""
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    main()
