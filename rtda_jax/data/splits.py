"""Lists of examples: those of this package, with their hashes, and those of the user."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

from rtda_jax.data.dataset import read_bytes
from rtda_jax.data.errors import DataError

# Name -> SHA-256 of splits/NAME.txt.
LISTS = {
    "camvid_train": "0f2b2149e1c9f0df5c4740d2532d6418b8163c47bd2994f198fc05a8a2108507",
    "camvid_val": "f80b1b93a53eb17ca8cdd58b5d6e8b0301f1efe0e3a17a7f63454d8c6473150d",
    "gta5_iast_omitted": "5a97f10491e83c1ffbb1f9b8e81d540a32c8faa16c17858dad973efa897557b6",
}


def packaged(name: str) -> tuple[str, ...]:
    """The names of a list of this package."""
    path = pathlib.Path(__file__).parent / "splits" / f"{name}.txt"
    return read(path, sha256=LISTS[name])


def read(path: str | os.PathLike, *, sha256: str = "") -> tuple[str, ...]:
    """The first word of every line that is not empty or a comment.

    Raises:
      DataError: the file is missing, or is not the one whose SHA-256 was given.
    """
    data = read_bytes(os.fspath(path))
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise DataError(f"{path}: SHA-256 is {found}, expected {sha256}: another list")
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a list of names is a text file: {error}") from None
    return tuple(line.split("\t")[0] for line in lines if line and not line.startswith("#"))


def choose(keys: Sequence[str], names: Sequence[str], *, what: str, suffix: str = "") -> set[str]:
    """The keys that a list names: whole, or by their last component, with or without extension.

    Raises:
      DataError: a name that no key has, or several.
    """
    whole = set(keys)
    by_last: dict[str, list[str]] = {}
    for key in keys:
        by_last.setdefault(os.path.basename(key), []).append(key)
    chosen = set()
    for name in names:
        bare = [
            n.removesuffix(suffix)
            for n in (name, name.split()[0], os.path.splitext(name.split()[0])[0])
        ]
        match = [n for n in bare if n in whole][:1]
        if not match:
            found = [by_last[b] for b in map(os.path.basename, bare) if b in by_last]
            match = found[0] if found else []
        if len(match) != 1:
            problem = (
                "no image has that name" if not match else f"{len(match)} images have that name"
            )
            raise DataError(f"{what}: lists {name!r}, but {problem}")
        chosen.add(match[0])
    return chosen
