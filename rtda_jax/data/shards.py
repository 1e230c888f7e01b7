"""Prepared data sets: TFDS directories of array_record shards, written once and read by index."""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from rtda_jax.data.geometry import tf
from rtda_jax.errors import DataError
from rtda_jax.run.files import FULL, LOCK, read_bytes, wait_for_lock

ANEW = "delete the folder to prepare it again"
# TFDS imports the class that a data set's features name; only TFDS's own classes are allowed.
_TRUSTED = "tensorflow_datasets.core.features."
_CLASS_FIELDS = ("pythonClassName", "python_class_name", "type")


class Names(NamedTuple):
    """The names of the features of a prepared data set."""

    image: str = "image"
    label: str = "label"
    key: str = "key"


_OURS = Names()


def prepare(builder: Any, *, manual_dir: pathlib.Path | None = None) -> pathlib.Path:
    """Returns the directory of a TFDS builder's data set; generates it unless it exists.

    One process generates it and others wait. TFDS writes to a temporary directory and renames it at
    the end, so that a directory that exists is complete.

    Raises:
      DataError: examples cannot be made, or the folder cannot be written to.
      OSError: names the file or folder that could not be written, for example on a full disk.
    """
    final = pathlib.Path(builder.data_dir)
    if final.exists():
        return final
    with _hold(final.parent):
        if not final.exists():
            for stale in final.parent.glob("incomplete.*"):  # left behind by a kill
                shutil.rmtree(stale, ignore_errors=True)
            _generate(builder, manual_dir)
    return final


def _generate(builder: Any, manual_dir: pathlib.Path | None) -> None:
    folder = pathlib.Path(builder.data_dir).parent
    scratch = folder / "downloads"
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=scratch, download_config=config)
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        # On a full disk, TFDS and what it writes with raise errors of all these kinds.
        if getattr(error, "filename", None) or not _is_full(error):
            raise
        reason = str(error).split("\n")[0]
        raise OSError(errno.EIO, f"cannot be prepared: {reason}", str(folder)) from error
    shutil.rmtree(scratch, ignore_errors=True)


def _is_full(error: BaseException) -> bool:
    """Returns whether an error means that there is no room on the disk, in a quota or a limit."""
    text = str(error)
    return getattr(error, "errno", None) in FULL or any(os.strerror(n) in text for n in FULL)


def _hold(folder: pathlib.Path) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which only this process prepares a folder; others wait."""
    message = f"{folder}: waiting for another process to prepare it"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return wait_for_lock(folder / LOCK, message)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}); choose another place for prepared "
            "data with --data_dir or $RTDA_JAX_DATA, or the spec's store_dir"
        ) from None


class Shards:
    """Random access to the encoded examples of one split of a prepared directory.

    Args:
      folder: the directory of one version.
      split: one of its splits.
      names: the names of its features.

    Raises:
      DataError: there is no such split, files are damaged, or features would import code.
    """

    def __init__(self, folder: pathlib.Path, split: str, names: Names = _OURS) -> None:
        check_features(folder)
        builder = tfds.builder_from_directory(str(folder))
        if split not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits))
            raise DataError(f"{folder}: no split {split!r}; known: {known}")
        skip = tfds.decode.SkipDecoding()
        decoders = {names.image: skip, names.label: skip}
        try:
            self.source = builder.as_data_source(split, decoders=decoders)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{folder}: damaged ({error}); {ANEW}") from None
        self.folder, self.split, self.names = folder, split, names
        self.keys: Sequence[str] = _Keys(self)
        if names == _OURS:
            keys = (builder.info.metadata or {}).get("keys")
            if not isinstance(keys, dict) or not isinstance(keys.get(split), list):
                raise DataError(f"{folder}: damaged (it does not hold its keys); {ANEW}")
            self.keys = tuple(_checked(key, folder) for key in keys[split])
        if len(self.keys) != len(self.source):
            raise DataError(
                f"{folder}: {len(self.source)} records in split {split!r}, expected "
                f"{len(self.keys)}; {ANEW}"
            )

    def __len__(self) -> int:
        return len(self.source)

    def image(self, i: int) -> bytes:
        """Returns the encoded image of example i."""
        return self.record(i)[self.names.image]

    def label(self, i: int) -> bytes:
        """Returns the encoded label of example i."""
        return self.record(i)[self.names.label]

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Returns both, in one access."""
        record = self.record(i)
        return record[self.names.image], record[self.names.label]

    def where(self, i: int) -> tuple[str, str]:
        """Returns what errors call the image and the label."""
        name = f"{self.folder}: {self.split}[{i}] ({self.keys[i]})"
        return name, f"{name} label"

    def fingerprint(self, *, labels: bool) -> str:
        """Returns the names of data set, configuration (which hold a digest) and version."""
        del labels
        return "/".join((*self.folder.parts[-3:], self.split))

    def record(self, i: int) -> dict[str, bytes]:
        """Returns all features of example i, still encoded."""
        try:
            return self.source[int(i)]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.folder}: {self.split}[{i}] is damaged ({error}); {ANEW}"
            ) from None


def check_features(folder: pathlib.Path) -> None:
    """Refuses a prepared data set whose features name classes outside TFDS.

    Raises:
      DataError: names the class, before anything is imported.
    """
    path = folder / "features.json"
    try:
        content = json.loads(read_bytes(path))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); {ANEW}") from None
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if isinstance(value.get("content"), str):  # JSON inside JSON, from an old TFDS
                raise DataError(f"{path}: written by an old version of TFDS; {ANEW}")
            for name in _CLASS_FIELDS:
                named = value.get(name)
                # A feature may be called "type"; a class has a dot in its name.
                if isinstance(named, str) and "." in named and not named.startswith(_TRUSTED):
                    raise DataError(
                        f"{path}: names the class {named!r}, which would be imported; only "
                        f"{_TRUSTED}* are read"
                    )


class _Keys(Sequence[str]):
    """Keys that are stored only in the records; each is read when it is requested."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if i >= len(self):
            raise IndexError(i)
        key = self.shards.record(i)[self.shards.names.key].decode(errors="replace")
        return _checked(key, self.shards.folder)


def _checked(key: Any, folder: pathlib.Path) -> str:
    """Returns a key; refuses one with which a file name would leave its folder."""
    if not isinstance(key, str) or not key or "\0" in key:
        raise DataError(f"{folder}: {key!r} cannot be the key of an image; {ANEW}")
    path = pathlib.PurePath(key)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{folder}: the key {key!r} leaves the folder that files of its name go to; {ANEW}"
        )
    return key
