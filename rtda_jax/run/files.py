"""Files that are whole, and folders with one writer at a time.

A reader of a file that was written here sees the old one or the new one, after a power cut too.
Two jobs that write to the same folder by mistake do not mix their files: the second one is refused.
Two jobs that need the same file wait for each other, so that it is made once.
Nothing here imports JAX, so that data workers start quickly.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import sys
from collections.abc import Iterator

import filelock

from rtda_jax.errors import ConfigError

LOCK = ".lock"
_PARTIAL = re.compile(r"\..*\.\d+-[0-9a-f]{8}\.partial", re.DOTALL)


def fsync(path: pathlib.Path) -> None:
    """Waits until a file's bytes, or a folder's list of names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: pathlib.Path) -> None:
    """Waits until a folder's list of names is on the disk, where its file system supports that."""
    with contextlib.suppress(OSError):
        fsync(path)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path beside `path`; what the block wrote there becomes `path` when it ends.

    Write, fsync, rename. The name is unique, so that two writers of one file do not mix, and it is
    removed if the block raises. The block may also make a folder, which then replaces a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        fsync(partial)
        if partial.is_dir():
            _replace_folder(path, partial)
        else:
            partial.replace(path)
    except BaseException:
        _remove(partial)
        raise
    fsync_folder(path.parent)


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes or replaces a file atomically and durably."""
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder, which is created if need be, for one writer.

    The system releases the lock however the process ends. Files that an earlier writer left
    half-written in the folder, because it was killed, are removed.

    Raises:
      ConfigError: another process, or another job of this one, holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = filelock.FileLock(folder / LOCK, blocking=False)
    try:
        file.acquire()
    except filelock.Timeout:
        raise ConfigError(f"{folder} is in use by another process") from None
    try:
        for path in folder.glob(".*.partial"):
            if _PARTIAL.fullmatch(path.name):
                _remove(path)
        yield
    finally:
        file.release()


def wait_for_lock(path: pathlib.Path, message: str) -> contextlib.AbstractContextManager[object]:
    """Acquires the lock file at a path, and returns a context at whose end it is released.

    Where another process holds it, the message is printed to stderr and the call waits.

    Raises:
      OSError: the lock file cannot be written.
    """
    file = filelock.FileLock(path)
    try:
        return file.acquire(blocking=False)
    except filelock.Timeout:
        print(message, file=sys.stderr)
        return file.acquire()


def _replace_folder(path: pathlib.Path, new: pathlib.Path) -> None:
    """Renames a folder to `path`; a folder with files in it cannot be replaced in one move."""
    old = _partial(path)
    with contextlib.suppress(FileNotFoundError):
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    _remove(old)


def _partial(path: pathlib.Path) -> pathlib.Path:
    """Returns a fresh name beside a path, short enough for a file system whatever its name."""
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:50]}.{unique}.partial")


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
