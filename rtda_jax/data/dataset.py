"""A set of encoded pictures and labels with random access."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Protocol

from rtda_jax.data.class_sets import ClassSet, Labelling
from rtda_jax.run.files import read_bytes

EXAMPLES = 100  # images of a data set whose sizes in bytes are part of its fingerprint


class Reader(Protocol):
    """Random access to encoded bytes, and to their names in errors."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> bytes:
        """Returns the encoded image of example i."""
        ...

    def label(self, i: int) -> bytes:
        """Returns the encoded label of example i."""
        ...

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Returns both, in one access if they are stored together."""
        ...

    def where(self, i: int) -> tuple[str, str]:
        """Returns what errors call the image and the label."""
        ...

    def fingerprint(self, *, labels: bool) -> str:
        """Returns a digest that changes with the stored files, without reading them whole."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Image and label files, read when they are requested."""

    images: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> bytes:
        """Returns the encoded image of example i."""
        return read_bytes(self.images[i])

    def label(self, i: int) -> bytes:
        """Returns the encoded label of example i."""
        return read_bytes(self.labels[i])

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Returns both files."""
        return self.image(i), self.label(i)

    def where(self, i: int) -> tuple[str, str]:
        """Returns the paths of image and label."""
        return self.images[i], self.labels[i] if self.labels else ""

    def fingerprint(self, *, labels: bool) -> str:
        """Returns a digest of the files' sizes and times of modification."""
        paths = (*self.images, *self.labels) if labels else self.images
        return hashlib.sha256(repr([_state(path) for path in paths]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images of one split, and their labels unless `labelling` is None.

    Attributes:
      name: its name in errors and reports.
      keys: a unique name for each example.
      classes: the class set that labels are mapped to.
      labelling: the meaning of the label files' pixels; None if there are no labels.
      reader: random access to the bytes.
      lenient: keys of files with known faults, whose label pixels outside the table are ignored.
      notes: sentences for the user about what was found and left out.
      role: its field in a benchmark, such as "source"; empty outside of one.
      remedy: what to do about files that cannot be read, after "; " in errors; may be empty.
    """

    name: str
    keys: Sequence[str]
    classes: ClassSet
    labelling: Labelling | None
    reader: Reader
    lenient: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    role: str = ""
    remedy: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def title(self) -> str:
        """What people read: its role, if it has one, and its name or the user's path."""
        name = self.name.removeprefix("folders/")
        return f"{self.role}: {name}" if self.role else name

    def unlabelled(self) -> "Dataset":
        """Returns the same images; their labels will never be opened."""
        return dataclasses.replace(self, labelling=None)

    def where(self, i: int) -> str:
        """Returns what errors call the image of example i."""
        return self.reader.where(i)[0]


def _state(path: str) -> tuple[int, int]:
    """Returns size and time of modification, or (-1, -1) if the file cannot be accessed."""
    try:
        status = os.stat(path)
    except OSError:  # reading the file later names the problem
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


class Images(Protocol):
    """The part of a data set from which its fingerprint is made."""

    @property
    def keys(self) -> Sequence[str]:
        """A unique name for each example."""

    def where(self, i: int) -> str:
        """Returns the path of an example's image, or another name if it has no file."""


def fingerprint(images: Images) -> str:
    """Returns a hash of a data set that stays the same when its files move as a whole.

    It covers the names of all examples, and the sizes in bytes of `EXAMPLES` images.
    """
    count = len(images.keys)
    digest = hashlib.sha256(b"[")  # the names as a JSON list, of which one at a time is in memory
    for number, name in enumerate(images.keys):
        digest.update(f"{', ' if number else ''}{json.dumps(name)}".encode())
    digest.update(b"]")
    for i in range(0, count, -(-count // EXAMPLES) or 1):
        with contextlib.suppress(OSError, ValueError):  # not in a file of its own
            digest.update(f"{i} {os.path.getsize(images.where(i))}\n".encode())
    return f"{count} examples, {digest.hexdigest()[:16]}"
