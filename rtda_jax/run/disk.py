"""Files that are on the disk, and not in a buffer only, when the call returns."""

import contextlib
import os
import pathlib


def flush(path: pathlib.Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def flush_folder(path: pathlib.Path) -> None:
    """Wait for a folder's list of names, where its file system knows how to."""
    with contextlib.suppress(OSError):
        flush(path)


def replace(path: pathlib.Path, data: bytes) -> None:
    """Replace a file in one move: a reader sees the old or the new one, after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    flush(partial)
    partial.replace(path)
    flush_folder(path.parent)
