import os
import subprocess
import sys

import pytest

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, atomic_output, file_fingerprint


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
    assert "--force" in caught.value.hint
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
