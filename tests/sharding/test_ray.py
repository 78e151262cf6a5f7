"""Ray's actors: what other executors write, and what becomes of actors and drivers that are killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ordtool.errors import OrdtoolError, UsageError

pytestmark = [
    pytest.mark.slow,
    # Ray 2.50 leaves files and processes of its own to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def session():
    ray = pytest.importorskip("ray")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},  # where actors find `toy`
    )
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def ranges_of_small_files(monkeypatch):
    from ordtool.sharding import plan

    monkeypatch.setattr(plan, "_SMALL_BYTES", 1)


def test_actors_that_die_and_the_same_bytes(shout, tmp_path):
    lines = [f"line {k}" for k in range(60)] + ["die a"] + ["bad"] + ["warn"] * 30
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "died-a").mkdir()
    shout("a.txt", "one", skips=True)
    (tmp_path / "died-a").rmdir()
    two = shout("a.txt", "two", skips=True, workers=2, ray="local")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert two.totals.bad.count == 1
    died, said = two.heard.warnings
    assert died.startswith("actor of process") and "shard 6" in died and said == "mind this"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_begun_by_ray_and_ended_without(shout, tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {k}\n" for k in range(200)))
    shout("a.txt", "one")
    with pytest.raises(KeyboardInterrupt):
        shout("a.txt", "two", workers=1, ray="local", stop=5)
    assert shout("a.txt", "two", resume=True).totals.before >= 50
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_can_not_start(shout, tmp_path):
    (tmp_path / "a.txt").write_text("line\n")
    with pytest.raises(OrdtoolError, match="no such model"):
        shout("a.txt", "two", workers=1, ray="local", lost=True)
    with pytest.raises(UsageError, match="too few for 9 workers"):
        shout("a.txt", "two", workers=9, ray="local")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_an_actor_without_our_files_is_sent_them(tmp_path):
    from toy import Shout

    from ordtool.sharding.on_ray import _Actor
    from ordtool.sharding.plan import Range, Shard
    from ordtool.sharding.work import Order

    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    source = Range(str(tmp_path / "a.txt"), "text", 4, 4, 2)
    shard = Shard(1, 1, source, count=1)
    actor = _Actor(Shout(tmp_path), None, False)
    order = Order(shard, part=tmp_path / "parts" / "1")
    assert actor.do(order, (1, 1), "token") is None
    sent = Order(Shard(1, 1, source.loaded(), count=1), part=order.part)
    (tmp_path / "a.txt").unlink()
    summary = actor.do(sent, None, "token")
    assert summary.data == b'{"text": "TWO", "index": 1}\n' and not (tmp_path / "parts").exists()


def test_without_ray_one_line_names_the_extra(tmp_path):
    (tmp_path / "a.txt").write_text("A line.\n")
    hide = "import sys; sys.modules['ray'] = None\nfrom ordtool.cli.app import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", hide, "embed", "-m", "static", "a.txt", "--ray", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: this needs ray, which is not installed",
        "hint: pip install 'ordtool[ray]'",
    ]


def test_a_driver_that_is_killed_is_resumed(session, run_in_process, tmp_path, kills_itself):
    (tmp_path / "a.txt").write_text("".join(f"This is line {k} of a file.\n" for k in range(20_000)))
    command = ["embed", "-m", "static", "a.txt", "-o"]
    address = session.get_runtime_context().gcs_address
    begun = [sys.executable, "-c", kills_itself, *command, "out.npy", "--ray", address, "--workers", "1"]
    done = subprocess.run(begun, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "going on after" in run_in_process(*command, "out.npy", "--resume").stderr
    assert run_in_process(*command, "whole.npy").returncode == 0
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.npy", "whole.npy"]
