"""Files are whole or absent, and a folder has one writer, however a writer ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import data_files
import numpy as np
import pytest

from rtda_jax.errors import ConfigError, DataError
from rtda_jax.run import files, workdir


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_bytes(path, b"old")
    with files.replacing(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert partial.parent == path.parent
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_what_is_no_regular_file_or_too_large_is_not_read(kind, tmp_path):
    path = tmp_path / "a.png"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "large":
            path.write_bytes(b"")
            os.truncate(path, 2**40)  # a hole: it takes no room
    words = {
        "folder": "is a folder, not a file",
        "large": "has 1,099,511,627,776 bytes; expected at most",
    }.get(kind, "is not a regular file")
    with pytest.raises(DataError, match=rf"a\.png: {words}"):
        files.read_bytes(path)


def test_a_file_of_the_largest_size_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert files.read(tmp_path / "a", most=4) == b"1234"
    assert files.read(tmp_path / "a", most=2**60) == b"1234"  # is not allocated
    with pytest.raises(OSError, match="has 4 bytes; expected at most 3"):
        files.read(tmp_path / "a", most=3)


def test_a_folder_replaces_a_folder_with_files(tmp_path):
    path = tmp_path / "model"
    for name in ("old", "new"):
        with files.replacing(path) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(28, "No space left")])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.json"
    files.write_bytes(path, b"old")
    with pytest.raises((ValueError, KeyboardInterrupt, OSError)), files.replacing(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_bytes(path, bytes(2000)),
        lambda path: files.write_npz(path, a=np.random.default_rng(0).random(2000)),
        lambda path: workdir.write_json(path, {"a": "b" * 2000}),
    ],
    ids=["bytes", "npz", "json"],
)
def test_a_file_for_which_the_disk_has_no_room_is_named(tmp_path, write):
    path = tmp_path / "new"
    with data_files.full_disk(1000), pytest.raises(OSError, match="File too large") as raised:
        write(path)
    assert raised.value.filename == str(path)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(OSError, match="busy"), files.replacing(path) as partial:
        partial.mkdir()
        rename = type(partial).rename

        def busy(self, target):
            if self == partial:
                raise OSError(16, "busy")
            return rename(self, target)

        monkeypatch.setattr(type(partial), "rename", busy)
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.json"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write_bytes(b"one" * 1000)
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one" * 1000
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["x" * 250 + ".png", "ü" * 120 + ".png", "線" * 80, "a\nb.png"])
def test_names_as_long_as_a_file_system_allows(tmp_path, name):
    files.write_bytes(tmp_path / name, b"data")
    assert names(tmp_path) == [name]


def test_what_is_written_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    events, fsync = [], os.fsync

    def flushed(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    replace = type(tmp_path).replace

    def renamed(self, target):
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(type(tmp_path), "replace", renamed)
    files.write_bytes(tmp_path / "a.json", b"data")
    assert events[0].endswith(".partial")
    assert events[1:] == ["rename", str(tmp_path)]


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "out"
    with files.lock(folder):
        with pytest.raises(ConfigError, match="out is in use by another"), files.lock(folder):
            pass
        refused = []

        def other_thread():
            try:
                with files.lock(folder):
                    pass
            except ConfigError as error:
                refused.append(error)

        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        assert refused
    with files.lock(folder):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / files.LOCK).mkdir()  # root may write into any folder, but not to this
    with pytest.raises(OSError, match="writes into the folder") as raised, files.lock(tmp_path):
        pass
    assert raised.value.filename == str(tmp_path)


def test_a_lock_is_waited_for(tmp_path, capsys):
    events, path = [], tmp_path / "x.lock"

    def other_thread():
        with files.wait_for_lock(path, "waiting for x"):
            events.append("second")

    thread = threading.Thread(target=other_thread)
    with files.wait_for_lock(path, "not said"):
        thread.start()
        while capsys.readouterr().err != "waiting for x\n":
            assert thread.is_alive()
        events.append("first")
    thread.join()
    assert events == ["first", "second"]


HOLDER = """
    import pathlib, sys
    from rtda_jax.run import files

    folder = pathlib.Path(sys.argv[1])
    with files.lock(folder), files.replacing(folder / "half.bin") as partial:
        partial.write_bytes(b"half")
        print(flush=True)
        sys.stdin.read()
"""


def test_a_killed_writer_frees_the_folder_and_its_rest_is_removed(tmp_path):
    mine = tmp_path / ".mine.partial"
    mine.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdout.readline()
        with pytest.raises(ConfigError, match="in use"), files.lock(tmp_path):
            pass
        assert len(names(tmp_path)) == 3
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with files.lock(tmp_path):
        assert names(tmp_path) == [".lock", ".mine.partial"]


def test_writers_need_no_jax():
    code = "import sys, rtda_jax.run.files; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
