"""Prepared data sets: TFDS directories of array_record shards, made once, read by index."""

import contextlib
import fcntl
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from rtda_jax.data.errors import DataError


def default_dir() -> pathlib.Path:
    """Where data sets are kept when nothing is said: $RTDA_JAX_DATA, or ~/.cache/rtda_jax."""
    return pathlib.Path(os.environ.get("RTDA_JAX_DATA") or "~/.cache/rtda_jax").expanduser()


def prepare(builder: Any) -> pathlib.Path:
    """The directory of a TFDS builder's finished data set, generated unless it is there.

    Only one process generates; others wait for it. TFDS writes beside and renames at the end, so
    a directory that exists is whole.
    """
    final = pathlib.Path(builder.data_dir)
    if final.exists():
        return final
    with _only_one(final.parent):
        if not final.exists():
            for stale in final.parent.glob("*.incomplete*"):
                shutil.rmtree(stale, ignore_errors=True)
            _generate(builder)
    return final


def _generate(builder: Any) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=builder.data_dir_root / ".downloads")
    with contextlib.suppress(OSError):
        shutil.rmtree(builder.data_dir_root / ".downloads")


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 closed below
    except OSError as error:
        raise DataError(
            f"{folder}: can not be written ({error.strerror}); choose another place for prepared "
            "data with --data_dir or $RTDA_JAX_DATA"
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

    def __init__(self, folder: pathlib.Path, split: str) -> None:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(folder))
        if split not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits))
            raise DataError(f"{folder}: no split {split!r}; known: {known}")
        skip = tfds.decode.SkipDecoding()
        decoders = {name: skip for name in ("image", "label") if name in builder.info.features}
        try:
            self.source = builder.as_data_source(split, decoders=decoders)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{folder}: damaged ({error}); delete it to prepare it anew") from None
        self.folder, self.split = folder, split
        self.keys = tuple(builder.info.metadata["keys"][split])
        if len(self.keys) != len(self.source):
            raise DataError(
                f"{folder}: {len(self.source)} records in split {split!r}, expected "
                f"{len(self.keys)}; delete it to prepare it anew"
            )

    def __len__(self) -> int:
        return len(self.source)

    def image(self, i: int) -> bytes:
        """The encoded image of example i."""
        return self._record(i)["image"]

    def label(self, i: int) -> bytes:
        """The encoded label of example i."""
        return self._record(i)["label"]

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Both, in one access where they lie together."""
        record = self._record(i)
        return record["image"], record["label"]

    def where(self, i: int) -> tuple[str, str]:
        """What errors call the image and the label."""
        name = f"{self.folder}: {self.split}[{i}] ({self.keys[i]})"
        return name, f"{name} label"

    def _record(self, i: int) -> dict[str, bytes]:
        try:
            return self.source[int(i)]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.where(i)[0]}: damaged record ({error}); "
                "delete the folder to prepare it anew"
            ) from None
