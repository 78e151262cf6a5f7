import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import (
    atomic_directory,
    atomic_output,
    check_directory,
    check_output,
    file_fingerprint,
    recover_directory,
    temporary_file,
)
from ordtool.io.checkpoint import read_checkpoint, write_checkpoint
from ordtool.io.locks import lock
from ordtool.models.resolve import resolve_model


def test_it_appears_when_complete(tmp_path):
    with atomic_output(tmp_path / "a") as file:
        file.write(b"one")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_output(tmp_path / "a", force=True) as file:
        file.write(b"new")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_existing_needs_force(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OrdtoolError, match="exists already") as caught, atomic_output(tmp_path / "a"):
        pass
    assert "`force`" in caught.value.hint
    with atomic_output(tmp_path / "a", force=True) as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_missing_folder_and_folder_as_file(tmp_path):
    with pytest.raises(OrdtoolError, match="is missing"), atomic_output(tmp_path / "no" / "a"):
        pass
    with pytest.raises(OrdtoolError, match="is a folder"), atomic_output(tmp_path):
        pass


def test_links_are_followed_and_rights_follow_the_umask(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_output(tmp_path / "link", force=True) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o666 & ~mask


def test_devices_are_written_as_they_stand():
    with atomic_output("/dev/null", force=True) as file:
        file.write(b"gone")


def test_full_disk_is_one_clear_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs rights")
    try:
        with pytest.raises(OrdtoolError, match="no space left"), atomic_output(disk / "a") as file:
            file.write(b"x" * 1_000_000)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="folders are replaced in two steps")
def test_directory_appears_when_complete(tmp_path):
    with atomic_directory(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    with pytest.raises(OrdtoolError, match="exists already"), atomic_directory(tmp_path / "model"):
        pass
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "model", force=True) as folder:
        raise RuntimeError
    assert os.listdir(tmp_path / "model") == ["config.json"]
    with atomic_directory(tmp_path / "model", force=True) as folder:
        (folder / "new.json").write_text("{}")
        (folder / "new.json").chmod(0o600)
    assert os.listdir(tmp_path / "model") == ["new.json"]
    assert os.listdir(tmp_path) == ["model"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "model" / "new.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_fingerprint_knows_content_and_order(tmp_path):
    for name, data in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(data)
    a, b, c = (tmp_path / name for name in "abc")
    assert file_fingerprint([a, b]) == file_fingerprint([c, b])
    assert file_fingerprint([a, b]) != file_fingerprint([b, a])


def killed(script, *arguments):
    """Run Python that ends itself with SIGKILL."""
    begin = "import os, signal, sys\ndie = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", begin + script, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL


KILLED_OUTPUTS = {
    "file": """
from ordtool.io.atomic import atomic_output
with atomic_output(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    die()
""",
    "folder": """
from ordtool.io.atomic import atomic_directory
with atomic_directory(sys.argv[1]) as folder:
    (folder / "half").touch()
    die()
""",
}


@pytest.mark.parametrize("script", KILLED_OUTPUTS.values(), ids=KILLED_OUTPUTS)
def test_kills_leave_one_name_and_the_next_run_takes_it(tmp_path, script):
    for _ in range(2):
        killed(script, tmp_path / "a")
        assert sorted(os.listdir(tmp_path)) == [".a.partial", ".a.partial.lock"]
    with atomic_output(tmp_path / "a") as file:  # whatever kind of output it was
        file.write(b"whole")
    assert os.listdir(tmp_path) == ["a"]
    (tmp_path / "a").unlink()
    killed(script, tmp_path / "a")
    with atomic_directory(tmp_path / "a") as folder:
        (folder / "whole").touch()
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["whole"]


def test_a_temporary_file_leaves_nothing_at_a_kill(tmp_path):
    killed(
        "from ordtool.io.atomic import temporary_file\n"
        "with temporary_file(sys.argv[1]) as file:\n    file.write(b'half')\n    file.flush()\n    die()\n",
        tmp_path / "a",
    )
    assert os.listdir(tmp_path) == []


# Dies when the old folder has been moved away and the new one isn't in its place yet.
GAP = """
from ordtool.io.atomic import atomic_directory
replace = os.replace
def replacing(old, new):
    if str(new) == sys.argv[1]:
        die()
    replace(old, new)
os.replace = replacing
with atomic_directory(sys.argv[1], force=True) as folder:
    (folder / "new").touch()
"""


@pytest.mark.parametrize("recover", [check_directory, recover_directory, resolve_model, atomic_directory])
def test_the_old_folder_survives_a_kill_while_it_is_replaced(tmp_path, recover):
    old = tmp_path / "model"
    old.mkdir()
    (old / "config.json").write_text("{}")
    (old / "model.safetensors").write_text("old")
    killed(GAP, old)
    assert not old.exists()
    if recover is atomic_directory:  # it fails, and leaves what it found
        with pytest.raises(RuntimeError), atomic_directory(old, force=True):
            raise RuntimeError
    elif recover is check_directory:
        check_directory(old, force=True)
    else:
        recover(str(old))
    assert (old / "model.safetensors").read_text() == "old"
    with atomic_directory(old, force=True) as folder:
        (folder / "new").touch()
    assert os.listdir(tmp_path) == ["model"] and os.listdir(old) == ["new"]


def test_a_kill_after_the_replacement_leaves_the_new_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    killed("import shutil\nshutil.rmtree = lambda path, *_, **__: die()\n" + GAP.split("replace =")[0] + """
with atomic_directory(sys.argv[1], force=True) as folder:
    (folder / "new").touch()
""", tmp_path / "model")  # fmt: skip
    recover_directory(tmp_path / "model")
    assert os.listdir(tmp_path / "model") == ["new"]
    assert not [name for name in os.listdir(tmp_path) if "old" in name]


def test_a_second_writer_is_told_of_the_first(tmp_path):
    with atomic_output(tmp_path / "a") as file:
        file.write(b"first")
        with pytest.raises(OrdtoolError, match="another run is writing this"), atomic_output(tmp_path / "a"):
            pass
    assert (tmp_path / "a").read_bytes() == b"first"
    with atomic_directory(tmp_path / "m") as folder:
        (folder / "first").touch()
        with pytest.raises(OrdtoolError, match="another run is writing"), atomic_directory(tmp_path / "m"):
            pass
    assert os.listdir(tmp_path / "m") == ["first"]


def test_a_lock_is_waited_for(tmp_path):
    taken = threading.Event()

    def second():
        with lock(tmp_path / "a", wait=True):
            taken.set()

    thread = threading.Thread(target=second)
    with lock(tmp_path / "a"):
        thread.start()
        assert not taken.wait(0.05)
    thread.join(20)
    assert taken.is_set() and os.listdir(tmp_path) == []


@pytest.fixture
def unwritable():
    """A folder that this process may not write into, also where it is root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)


@pytest.mark.parametrize("check", [check_output, check_directory])
def test_missing_rights_are_found_before_the_work(unwritable, check):
    with pytest.raises(OrdtoolError, match="is not writable"):
        check(unwritable / "a")
    with (
        pytest.raises(OrdtoolError, match="can't be written: Permission denied"),
        temporary_file(unwritable / "a"),
    ):
        pass


@pytest.mark.parametrize("name", ["n" * 240, "n" * 300, "n" * 300 + "/a"])
@pytest.mark.parametrize("write", [atomic_output, atomic_directory])
def test_a_long_name_is_one_line(tmp_path, name, write):
    with pytest.raises(OrdtoolError, match="name is too long"), write(tmp_path / name):
        pass


@pytest.fixture
def full_disk():
    """No file grows beyond 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _bytes(folder):
    (folder / "a").write_bytes(b"x" * 10_000)


def _safetensors(folder):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(10_000)}, folder / "a")


def _torch(folder):
    import torch

    torch.save({"a": torch.zeros(10_000)}, folder / "a")


def _tokenizer(folder):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word {k}": k for k in range(1000)}, unk_token="word 0")).save(
        str(folder / "a")
    )


def _parquet(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": np.random.default_rng(0).random(10_000)}), folder / "a")


@pytest.mark.parametrize("write", [_bytes, _safetensors, _torch, _tokenizer, _parquet])
def test_a_full_disk_is_one_line_whoever_writes(tmp_path, full_disk, write):
    with (
        pytest.raises(OrdtoolError, match="m: (no space left on the disk|can't be written: torch)"),
        atomic_directory(tmp_path / "m") as folder,
    ):
        write(folder)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, request):
    import torch

    write_checkpoint(tmp_path / "c", {"a": torch.ones(3)}, {"step": 1})
    request.getfixturevalue("full_disk")
    with pytest.raises(OrdtoolError, match="no space left"):
        write_checkpoint(tmp_path / "c", {"a": torch.ones(10_000)}, {"step": 2})
    assert os.listdir(tmp_path) == ["c"]
    tensors, state = read_checkpoint(tmp_path / "c", {"step": (int,)})
    assert tensors["a"].tolist() == [1, 1, 1] and state["step"] == 1
    with pytest.raises(OrdtoolError, match="not a checkpoint of this kind"):
        read_checkpoint(tmp_path / "c", {"position": (dict,)})
