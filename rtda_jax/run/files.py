"""Atomic writes, folders with one writer at a time, and limits on files from elsewhere.

A reader of a file that was written here sees either the old or the new content, even after a power
cut. If two jobs write to the same folder by mistake, the second one is refused, so that their files
are not mixed. Two jobs that need the same file wait for each other, so that it is made only once.
Nothing here imports JAX, so that data workers start quickly.
"""

import contextlib
import errno
import hashlib
import io
import os
import pathlib
import re
import secrets
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator

import filelock
import numpy as np

from rtda_jax.errors import ConfigError, DataError

LOCK = ".lock"
_PARTIAL = re.compile(r"\..*\.\d+-[0-9a-f]{8}\.partial", re.DOTALL)
_LARGEST = 2**29  # bytes of a file of a data set: more than the largest picture takes
_UNPACKED = 16  # counts compress well
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, or in a quota or limit
_GROWTH, _FLOOR = 4, 2**26  # a file may take four times its size, and 64 MiB however small it is


def read(path: str | os.PathLike, *, most: int) -> bytes:
    """Returns the content of a regular file; refuses a pipe or a device, which could hang.

    Args:
      path: the file.
      most: the largest size in bytes.

    Raises:
      OSError: with the path, if it is not a regular file, is too large or cannot be read.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    if status.st_size > most:
        words = f"has {status.st_size:,} bytes; expected at most {most:,}"
        raise OSError(errno.EFBIG, words, os.fspath(path))
    with open(path, "rb") as file:
        return file.read(status.st_size)  # `most` would be allocated


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of a file of a data set; DataError naming it if it cannot be read."""
    try:
        return read(path, most=_LARGEST)
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: {reason(path, error)}") from None


def reason(path: str | os.PathLike, error: OSError) -> str:
    """Returns why a file or folder cannot be read, in words."""
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"dangling link to {os.readlink(os.fspath(path))}"
    return {
        errno.ENOENT: "no such file",
        errno.EACCES: "permission denied",
        errno.EISDIR: "is a folder, not a file",
    }.get(error.errno or 0, str(error.strerror))


class Budget:
    """The bytes of memory that reading a file may take; ordinary files stay far below."""

    def __init__(self, file_size: int) -> None:
        self.file_size = file_size
        self.limit = self.left = _GROWTH * file_size + _FLOOR

    def spend(self, size: int) -> None:
        """Counts bytes before they are allocated. Raises ValueError beyond the limit."""
        self.left -= size
        if self.left < 0:
            raise ValueError(
                f"it would take more than {self.limit >> 20} MiB of memory, which is more than "
                "such a file does"
            )

    def check_archive(self, archive: zipfile.ZipFile) -> None:
        """Raises ValueError for an archive that unpacks to more than the limit."""
        # Reading an entry ends at the size that it claims.
        if sum(entry.file_size for entry in archive.infolist()) > self.limit:
            raise ValueError(f"its archive unpacks to more than {self.limit >> 20} MiB")


def fsync(path: pathlib.Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: pathlib.Path) -> None:
    """Waits until the list of names in a folder is on the disk, if the file system can do so."""
    with contextlib.suppress(OSError):
        fsync(path)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, which is renamed to `path` at the end of the block.

    The steps are write, fsync, rename. The temporary name is unique, so that two writers of one
    file do not mix, and it is removed if the block raises. The block may also make a folder, which
    then replaces a folder.

    Raises:
      OSError: with the path, if there is no room on the disk.
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
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError) and error.errno in FULL and not error.filename:
            raise OSError(error.errno, error.strerror, str(path)) from None
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


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes or replaces a compressed file of arrays by name, atomically and durably."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; none if the file is missing or damaged."""
    try:
        data = read(path, most=_LARGEST)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            Budget(_UNPACKED * len(data)).check_archive(arrays.zip)
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # NumPy and zipfile pass on whatever a damaged archive leads to
        return {}


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder for one writer; creates it if it does not exist.

    The system releases the lock however the process ends. Half-written files of an earlier writer
    that was killed are removed.

    Raises:
      ConfigError: another process, or another job of this one, holds the folder.
      OSError: names the folder, which cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = filelock.FileLock(folder / LOCK, blocking=False)
    try:
        file.acquire()
    except filelock.Timeout:
        raise ConfigError(f"{folder} is in use by another process") from None
    except OSError as error:
        reason = f"{error.strerror}; this job writes into the folder"
        raise OSError(error.errno, reason, str(folder)) from None
    try:
        for path in folder.glob(".*.partial"):
            if _PARTIAL.fullmatch(path.name):
                _remove(path)
        yield
    finally:
        file.release()


def wait_for_lock(path: pathlib.Path, message: str) -> contextlib.AbstractContextManager[object]:
    """Acquires the lock file at a path, and returns a context that releases it at its end.

    If another process holds it, the message is printed to stderr and the call waits.

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
    """Returns a new name beside a path, short enough for any file system."""
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:50]}.{unique}.partial")


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
