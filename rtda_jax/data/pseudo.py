"""Labels a network gave to the images of a data set: PNG files, and a manifest of their hashes."""

import dataclasses
import hashlib
import json
import os
import pathlib

from rtda_jax.data.dataset import Dataset, read_bytes
from rtda_jax.data.errors import DataError

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """Checked label files, one for each image of the set they were made for.

    Attributes:
      folder: of the stage that wrote them.
      keys: of the images.
      sha256: of each file.
    """

    folder: str
    keys: tuple[str, ...]
    sha256: tuple[str, ...]

    def read(self, i: int) -> bytes:
        """The encoded label of example i: PNG, classes 0..K-1 and 255."""
        return read_bytes(label_path(self.folder, self.keys[i]))

    def check(self, i: int) -> None:
        """Raise DataError unless the file of example i is the one its stage wrote."""
        path = label_path(self.folder, self.keys[i])
        if hashlib.sha256(read_bytes(path)).hexdigest() != self.sha256[i]:
            raise DataError(
                f"{path}: changed since it was written, its hash is not the manifest's; "
                f"delete {self.folder} and the same command makes the labels anew"
            )


def label_path(folder: str | os.PathLike, key: str) -> str:
    """Where the label of the image of that key lies."""
    return os.path.join(folder, "labels", f"{key}.png")


def load_pseudo(folder: str | os.PathLike, *, target: Dataset) -> PseudoLabels:
    """The labels in a finished pseudo_label stage's folder, every file checked.

    Args:
      folder: with `manifest.json` and `labels/`.
      target: the images that will be trained on.

    Raises:
      DataError: there is no manifest, it is of other images or classes, a file is missing or is
        not the one that was written.
    """
    path = pathlib.Path(folder) / MANIFEST
    if not path.exists():
        raise DataError(f"{folder}: no finished pseudo-labels ({MANIFEST} is missing)")
    manifest = _manifest(path)
    if manifest["classes"] != target.classes.name:
        raise DataError(
            f"{path}: labels of the classes {manifest['classes']!r}, not {target.classes.name!r}"
        )
    files = manifest["files"]
    keys = tuple(target.keys)
    if tuple(files) != keys:
        strange = sorted(set(files) ^ set(keys)) or ["the order"]
        raise DataError(
            f"{path}: made for {len(files)} images of {manifest['data']!r}, not for the "
            f"{len(keys)} of {target.name!r}; they differ in {strange[0]!r}"
        )
    labels = PseudoLabels(os.fspath(folder), keys, tuple(files.values()))
    for i in range(len(keys)):
        labels.check(i)
    return labels


def _manifest(path: pathlib.Path) -> dict:
    try:
        manifest = json.loads(read_bytes(os.fspath(path)))
        if set(manifest) >= {"classes", "data", "files"} and isinstance(manifest["files"], dict):
            return manifest
        problem = "classes, data and files are not all in it"
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error)
    raise DataError(f"{path}: not what a pseudo_label stage writes: {problem}")
