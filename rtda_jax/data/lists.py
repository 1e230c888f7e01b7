"""Lists of examples in text files: those of this package, the user's, and those that jobs write.

A list has one name a line. What `write` writes, `choose` reads back exactly, whatever signs a name
has. Of other lists, a name is the path of an image or its end, with or without its extension; text
behind a tab and lines that begin with `#` are comments, unless an image has that very name.
"""

import codecs
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from rtda_jax.data.pictures import EXTENSIONS, read_bytes
from rtda_jax.errors import DataError
from rtda_jax.run.files import write_bytes

# Name -> SHA-256 of splits/NAME.txt.
LISTS = {
    "camvid_train": "0f2b2149e1c9f0df5c4740d2532d6418b8163c47bd2994f198fc05a8a2108507",
    "camvid_val": "f80b1b93a53eb17ca8cdd58b5d6e8b0301f1efe0e3a17a7f63454d8c6473150d",
    "gta5_iast_omitted": "5a97f10491e83c1ffbb1f9b8e81d540a32c8faa16c17858dad973efa897557b6",
}


def packaged(name: str) -> tuple[str, ...]:
    """Returns the names in a list of this package."""
    path = pathlib.Path(__file__).parent / "splits" / f"{name}.txt"
    lines = read(path, sha256=LISTS[name])
    return tuple(line for line in lines if line and not line.startswith("#"))


def read(path: str | os.PathLike, *, sha256: str = "") -> tuple[str, ...]:
    """Returns the lines of a list, as they are.

    Args:
      path: a text file, UTF-8 or UTF-16; bytes of names that are no UTF-8 stay as they are.
      sha256: of the file, if another one is an error.

    Raises:
      DataError: the file is missing, is no text, or is not the one whose SHA-256 was given.
    """
    data = read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise DataError(f"{path}: SHA-256 is {digest}, expected {sha256}: another list")
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = data.decode("utf-8-sig", errors="surrogateescape")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a list of names is a text file: {error}") from None
    if "\0" in text:
        raise DataError(f"{path}: a list of names is a text file, but it holds zero bytes")
    return tuple(line.removesuffix("\r") for line in text.split("\n"))


def write(path: pathlib.Path, rows: Mapping[str, str], *, title: str) -> None:
    """Writes a list: a comment, then each name with a tab and a remark."""
    lines = [f"# {title}"]
    lines += [f"{quoted(name)}\t{' '.join(remark.split())}" for name, remark in rows.items()]
    write_bytes(path, ("\n".join(lines) + "\n").encode(errors="backslashreplace"))


def quoted(name: str) -> str:
    """Returns a name as it stands in a list: plain, or as a JSON string where that is not safe."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if plain and name else json.dumps(name)


def choose(keys: Sequence[str], lines: Sequence[str], *, what: str, suffix: str = "") -> list[str]:
    """Returns the key that each line of a list names.

    Args:
      keys: of all examples.
      lines: of the list.
      what: the list's name in errors.
      suffix: that image names have and keys lack.

    Raises:
      DataError: a line that names no image, or several.
    """
    whole = set(keys)
    by_end: dict[str, list[str]] = {}
    for key in keys:
        by_end.setdefault(os.path.basename(key), []).append(key)
    chosen = []
    for line in lines:
        if not line.strip():
            continue
        names = _names(line)
        matches = _matches(names, whole, by_end, suffix)
        if len(matches) == 1:
            chosen += matches
        elif matches or not line.lstrip().startswith("#"):
            count = f"{len(matches)} images have" if matches else "no image has"
            raise DataError(f"{what}: lists {names[0]!r}, but {count} that name")
    return chosen


def _names(line: str) -> list[str]:
    """Returns what a line may mean by its name, the likeliest first."""
    if line.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(line)
            if line[end : end + 1] in ("", "\t"):
                return [name]
        except ValueError:
            pass  # a plain name that begins with a quotation mark
    name = line.split("\t")[0]
    names = [name, name.strip()]
    first = name.split()[0] if name.split() else ""
    if first.lower().endswith(EXTENSIONS):  # a line "images/a.png labels/a.png"
        names.append(first)
    return names


def _matches(
    names: Sequence[str], whole: set[str], by_end: Mapping[str, list[str]], suffix: str
) -> list[str]:
    """Returns the keys of a name: the whole one, else those that end in it."""
    forms = [form for name in names for form in _forms(name, suffix)]
    for form in forms:
        if form in whole:
            return [form]
    for form in forms:
        if os.path.basename(form) in by_end:
            return by_end[os.path.basename(form)]
    return []


def _forms(name: str, suffix: str) -> list[str]:
    """Returns a name, without its picture's extension, and without the suffix of images."""
    ends = [extension for extension in EXTENSIONS if name.lower().endswith(extension)]
    bare = name[: -len(ends[0])] if ends else name
    return [name, bare, bare.removesuffix(suffix)]
