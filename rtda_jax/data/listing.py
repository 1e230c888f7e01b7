"""Finding image and label files and pairing them by name."""

import glob
import os
import pathlib
from collections.abc import Collection
from typing import NamedTuple

from rtda_jax.data.dataset import Files
from rtda_jax.data.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
_GLOB = set("*?[")
_NAMED = 3  # files an error names before it counts


class Found(NamedTuple):
    """Files below a folder: path relative to it without extension -> whole path."""

    folder: str
    files: dict[str, str]


class Pairs(NamedTuple):
    """Key -> image, key -> label (empty for unlabelled sets), and where labels were looked for."""

    images: dict[str, str]
    labels: dict[str, str]
    folder: str


def find(root: pathlib.Path, pattern: str, *, get: str) -> Found:
    """Image files of a folder, at any depth, or of a glob; `root` stands before relative ones.

    Raises:
      DataError: nothing is there; `get` says how to get it.
    """
    whole = os.path.join(root, os.path.expanduser(pattern))
    if _GLOB & set(pattern):
        search = whole
        first = min(whole.index(sign) for sign in _GLOB if sign in whole)
        folder = os.path.dirname(whole[:first])
    else:
        search = os.path.join(glob.escape(whole), "**", "*")
        folder = whole
    if not os.path.isdir(folder):
        path = pathlib.Path(folder)
        missing = next(p for p in (*reversed(path.parents), path) if not p.is_dir())
        raise DataError(f"{missing}: no such folder (looking for {pattern!r}); {get}")
    files: dict[str, str] = {}
    for file in sorted(glob.iglob(search, recursive=True)):
        stem, extension = os.path.splitext(os.path.relpath(file, folder))
        if extension.lower() not in EXTENSIONS:
            continue
        if stem in files:
            raise DataError(f"{file}: has the same name as {files[stem]}")
        files[stem] = file
    if not files:
        raise DataError(f"{whole}: holds no {', '.join(EXTENSIONS)} files; {get}")
    return Found(folder, files)


def pair(
    images: Found, labels: Found | None, *, image_suffix: str = "", label_suffix: str = ""
) -> Pairs:
    """Images and the labels whose names agree but for the suffixes.

    Files that do not end in their suffix are no examples (Cityscapes keeps others beside).
    """
    of_key = _by_key(images, image_suffix)
    if not of_key:
        raise DataError(f"{images.folder}: no image name ends in {image_suffix!r}")
    if labels is None:
        return Pairs(of_key, {}, "")
    folder = os.path.join(labels.folder, f"*{label_suffix}.png")
    return Pairs(of_key, _by_key(labels, label_suffix), folder)


def complete(pairs: Pairs, keys: Collection[str], *, labelled: bool) -> Files:
    """The files of these keys; DataError naming images without label."""
    if not labelled:
        return Files(tuple(pairs.images[key] for key in keys))
    lonely = [pairs.images[key] for key in keys if key not in pairs.labels]
    if lonely:
        named = ", ".join(lonely[:_NAMED]) + (" ..." if len(lonely) > _NAMED else "")
        raise DataError(
            f"{named}: {len(lonely)} of {len(keys)} images have no label; looked for them as "
            f"{pairs.folder}; --job=check_data writes a quarantine list that leaves them out"
        )
    return Files(tuple(pairs.images[key] for key in keys), tuple(pairs.labels[key] for key in keys))


def _by_key(found: Found, suffix: str) -> dict[str, str]:
    return {
        stem.removesuffix(suffix): path
        for stem, path in found.files.items()
        if stem.endswith(suffix)
    }
