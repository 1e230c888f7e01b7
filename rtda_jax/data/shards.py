"""Prepared data sets: TFDS directories of array_record shards, made once, read by index."""

import contextlib
import fcntl
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rtda_jax.data.errors import DataError

ANEW = "delete the folder to prepare it anew"


class Names(NamedTuple):
    """What the features of a prepared data set are called."""

    image: str = "image"
    label: str = "label"
    key: str = "key"


_OURS = Names()


def default_dir() -> pathlib.Path:
    """Where data sets are kept when nothing is said: $RTDA_JAX_DATA, or ~/.cache/rtda_jax."""
    return pathlib.Path(os.environ.get("RTDA_JAX_DATA") or "~/.cache/rtda_jax").expanduser()


def prepare(builder: Any, *, manual_dir: pathlib.Path | None = None) -> pathlib.Path:
    """The directory of a TFDS builder's finished data set, generated unless it is there.

    Only one process generates; others wait for it. TFDS writes beside and renames at the end, so
    a directory that exists is whole.
    """
    final = pathlib.Path(builder.data_dir)
    if final.exists():
        return final
    with _only_one(final.parent):
        if not final.exists():
            for stale in final.parent.glob("incomplete.*"):  # left behind by a kill
                shutil.rmtree(stale, ignore_errors=True)
            _generate(builder, manual_dir)
    return final


def _generate(builder: Any, manual_dir: pathlib.Path | None) -> None:
    import tensorflow_datasets as tfds

    scratch = pathlib.Path(builder.data_dir).parent / "downloads"
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=scratch, download_config=config)
    shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 closed below
    except OSError as error:
        raise DataError(
            f"{folder}: can not be written ({error.strerror}); choose another place for prepared "
            "data with --data_dir or $RTDA_JAX_DATA, or the spec's store_dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: waiting for another process to prepare it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Shards:
    """Random access to the encoded examples of one split of a prepared directory."""

    def __init__(self, folder: pathlib.Path, split: str, names: Names = _OURS) -> None:
        import tensorflow_datasets as tfds

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
            held = (builder.info.metadata or {}).get("keys")
            if not isinstance(held, dict) or not isinstance(held.get(split), list):
                raise DataError(f"{folder}: damaged (it does not hold its keys); {ANEW}")
            self.keys = tuple(_checked(key, folder) for key in held[split])
        if len(self.keys) != len(self.source):
            raise DataError(
                f"{folder}: {len(self.source)} records in split {split!r}, expected "
                f"{len(self.keys)}; {ANEW}"
            )

    def __len__(self) -> int:
        return len(self.source)

    def image(self, i: int) -> bytes:
        """The encoded image of example i."""
        return self.record(i)[self.names.image]

    def label(self, i: int) -> bytes:
        """The encoded label of example i."""
        return self.record(i)[self.names.label]

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Both, in one access where they lie together."""
        record = self.record(i)
        return record[self.names.image], record[self.names.label]

    def where(self, i: int) -> tuple[str, str]:
        """What errors call the image and the label."""
        name = f"{self.folder}: {self.split}[{i}] ({self.keys[i]})"
        return name, f"{name} label"

    def record(self, i: int) -> dict[str, bytes]:
        """All features of example i, still encoded."""
        try:
            return self.source[int(i)]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.folder}: {self.split}[{i}] is damaged ({error}); {ANEW}"
            ) from None


class _Keys(Sequence[str]):
    """Keys that stand in the records only, read one by one when asked for."""

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
    """A key names the label file of its image, which must lie below the folder of labels."""
    if not isinstance(key, str) or not key or "\0" in key:
        raise DataError(f"{folder}: {key!r} can not be the key of an image; {ANEW}")
    path = pathlib.PurePath(key)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{folder}: the key {key!r} leaves the folder that files of its name go to; {ANEW}"
        )
    return key
