"""A set of encoded images and labels with random access, and the checks that need no decoding."""

import dataclasses
import errno
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rtda_jax.data import headers, labels
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import ClassSet


class Encoded(NamedTuple):
    """One example as bytes; `label` is None for unlabelled sets.

    A decoded label of index encoding is to be divided by `step` (see headers.index_step).
    """

    image: bytes
    label: bytes | None
    step: int = 1


class Reader(Protocol):
    """Random access to encoded bytes, and to what errors call them."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> bytes:
        """The encoded image of example i."""
        ...

    def label(self, i: int) -> bytes:
        """The encoded label of example i."""
        ...

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Both, in one access where they lie together."""
        ...

    def where(self, i: int) -> tuple[str, str]:
        """What errors call the image and the label."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Image and label files, read when asked for."""

    images: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> bytes:
        """The encoded image of example i."""
        return read_bytes(self.images[i])

    def label(self, i: int) -> bytes:
        """The encoded label of example i."""
        return read_bytes(self.labels[i])

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Both, in one access where they lie together."""
        return self.image(i), self.label(i)

    def where(self, i: int) -> tuple[str, str]:
        """What errors call the image and the label."""
        return self.images[i], self.labels[i] if self.labels else ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images, and labels unless `labelling` is None, of one split.

    Attributes:
      name: what errors and reports call it.
      keys: a name for each example, unique.
      classes: the class set that labels are mapped to.
      labelling: what the label files' pixels mean (key of labels.LABELLINGS), None: no labels.
      reader: random access to the bytes.
      lenient: keys of known bad files whose off-table label pixels count as ignored.
    """

    name: str
    keys: Sequence[str]
    classes: ClassSet
    labelling: str | None
    reader: Reader
    lenient: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.keys)

    def unlabelled(self) -> "Dataset":
        """The same images; their labels will never be opened."""
        return dataclasses.replace(self, labelling=None)

    def where(self, i: int) -> str:
        """What errors call the image of example i."""
        return self.reader.where(i)[0]

    def read(self, i: int) -> Encoded:
        """The encoded example; DataError for what its headers give away."""
        image_at, label_at = self.reader.where(i)
        if self.labelling is None:
            data = self.reader.image(i)
            _check_image(headers.probe(data, image_at), image_at)
            return Encoded(data, None)
        data, label = self.reader.pair(i)
        image_header = headers.probe(data, image_at)
        label_header = headers.probe(label, label_at)
        _check_image(image_header, image_at)
        _check_label(label_header, label_at, self.labelling)
        if image_header[1:3] != label_header[1:3]:
            raise DataError(
                f"{label_at}: label is {label_header.width}x{label_header.height} but its image "
                f"{image_at} is {image_header.width}x{image_header.height}"
            )
        if labels.encoding(self.labelling) != "index":
            return Encoded(data, label)
        if label_header.palette:
            try:
                label = headers.as_indices(label)
            except (IndexError, struct.error):
                raise DataError(f"{label_at}: truncated; no image data follow") from None
        return Encoded(data, label, headers.index_step(label_header.bits))


def _check_image(header: headers.Header, where: str) -> None:
    if header.bits != 8 and not header.palette:
        raise DataError(f"{where}: {header.bits} bits per channel; images must have 8")
    if header.channels != 3 and not header.palette:
        kinds = {1: "greyscale", 2: "greyscale with alpha", 4: "RGBA"}
        kind = kinds.get(header.channels, f"{header.channels} channels")
        raise DataError(f"{where}: {kind}; images must be RGB")


def _check_label(header: headers.Header, where: str, labelling: str) -> None:
    if header.format == "JPEG":
        raise DataError(f"{where}: a JPEG can not hold labels exactly; expected PNG")
    encoding = labels.encoding(labelling)
    if encoding == "index":
        if header.bits == 16:
            raise DataError(
                f"{where}: 16-bit label, but {labelling!r} is 8-bit; "
                "SYNTHIA's original files are labelling 'synthia_ids'"
            )
        if header.channels != 1:
            raise DataError(
                f"{where}: label has {header.channels} channels, but {labelling!r} is one channel "
                "or a palette; a colour picture of the labels can not be used in its place"
            )
    elif encoding == "first16" and header.bits != 16:
        raise DataError(
            f"{where}: {header.bits}-bit label, but {labelling!r} is 16-bit; "
            "files converted to 8 bits are labelling 'synthia_ids_8bit'"
        )
    elif encoding == "rgb" and header.channels != 3 and not header.palette:
        raise DataError(f"{where}: label has {header.channels} channels, {labelling!r} is RGB")


def read_bytes(path: str) -> bytes:
    """A file's content; DataError naming it if it can not be had."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: {explain(path, error)}") from None


def explain(path: str, error: OSError) -> str:
    """Why a file could not be read, in words."""
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"dangling link to {os.readlink(path)}"
    return {
        errno.ENOENT: "no such file",
        errno.EACCES: "permission denied",
        errno.EISDIR: "is a folder, not a file",
    }.get(error.errno or 0, str(error.strerror))
