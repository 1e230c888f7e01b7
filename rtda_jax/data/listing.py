"""Finds the files of a data set, pairs them by name and selects them by lists, dropping none
silently.

A list has one name per line. `choose` reads back exactly what `write_list` wrote, whatever
characters a name contains. In other lists, a name is the path of an image, starting at any folder
above it, or the end of that path, with or without its extension. Text after a tab and lines that
begin with `#` are comments, unless an image has exactly this name.
"""

import codecs
import collections
import glob
import hashlib
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from rtda_jax.data.class_sets import DEFINITION_FILE
from rtda_jax.data.pictures import EXTENSIONS
from rtda_jax.errors import DataError, named
from rtda_jax.run.files import read_bytes, reason, write_bytes


class LeftOut(NamedTuple):
    """A file or folder that is not read.

    Attributes:
      path: where it is.
      why: words that follow "left out".
      other_kind: whether it is a file whose extension is not among the requested ones.
    """

    path: str
    why: str
    other_kind: bool = False


class Walk(NamedTuple):
    """The files at any depth of a folder, sorted, and what was left out."""

    files: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


class Pictures(NamedTuple):
    """Pictures below a folder: path relative to it without extension -> full path."""

    folder: str
    files: dict[str, str]
    left_out: tuple[LeftOut, ...] = ()


class Pairs(NamedTuple):
    """Key -> image and key -> label (none for unlabelled sets), with notes.

    Attributes:
      images, labels: the paths.
      pattern: where labels were searched, in words.
      notes: sentences about what was left out.
    """

    images: dict[str, str]
    labels: dict[str, str]
    pattern: str
    notes: tuple[str, ...] = ()


def walk(
    folder: str | os.PathLike,
    *,
    extensions: Collection[str] = EXTENSIONS,
    without: str | os.PathLike | None = None,
) -> Walk:
    """Finds the files with some extensions at any depth of a folder.

    Every real folder is read once, however many links lead to it, and under its own path instead of
    a link's path if possible. Hidden files and folders are left out.

    Args:
      folder: the folder to search.
      extensions: in lower case, with their dots.
      without: a folder that is neither entered nor mentioned, such as that of the results.
    """
    files: list[str] = []
    left_out: list[LeftOut] = []
    excluded = None if without is None else os.path.realpath(without)
    seen: dict[str, str] = {}
    folders, links = [os.fspath(folder)], list[str]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(here)
        if real == excluded:
            continue
        if real in seen:
            left_out.append(LeftOut(here, f"the same folder as {seen[real]}"))
            continue
        seen[real] = here
        try:
            with os.scandir(here) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            left_out.append(LeftOut(here, reason(here, error)))
            continue
        for entry in names:
            if entry.name == DEFINITION_FILE:
                continue
            outcome = _examine(entry, extensions)
            if isinstance(outcome, LeftOut):
                left_out.append(outcome)
            elif outcome == "file":
                files.append(entry.path)
            elif entry.is_symlink():
                links.append(entry.path)
            else:
                folders.append(entry.path)
    return Walk(tuple(sorted(files)), tuple(left_out))


def sentences(left_out: Iterable[LeftOut]) -> tuple[str, ...]:
    """Describes what was left out: a sentence for each reason, which names the first few files."""
    of_reason = collections.defaultdict(list)
    for item in left_out:
        of_reason[item.why].append(item.path)
    rows = of_reason.items()
    return tuple(f"{len(paths)} left out, {why}: {named(paths)}" for why, paths in rows)


def find(root: pathlib.Path, pattern: str, *, how_to_get: str) -> Pictures:
    """Finds the pictures of a path or a pattern.

    A path that exists is never a pattern, whatever characters it contains: a folder stands for the
    pictures at any depth below it, and a file for itself. Otherwise `*`, `?` and `[...]` have their
    meaning as in a glob.

    Args:
      root: the folder to which relative paths refer.
      pattern: the path or pattern.
      how_to_get: what the error says about the data, from "; " on.

    Raises:
      DataError: nothing was found, or two pictures have the same name.
    """
    base, rest = literal(os.fspath(root), os.path.expanduser(pattern))
    if not rest and os.path.isdir(base):
        folder, paths, left_out = base, *walk(base)
    elif not rest:
        folder, paths, left_out = os.path.dirname(base), (base,), ()
    elif os.path.isdir(base) and glob.has_magic(pathlib.PurePath(rest).parts[0]):
        folder, paths, left_out = base, *_glob(base, rest)
    else:
        missing = os.path.join(base, pathlib.PurePath(rest).parts[0])
        raise DataError(f"{missing}: no such folder (looking for {pattern!r}){how_to_get}")
    files: dict[str, str] = {}
    for path in paths:
        stem = composed(os.path.splitext(os.path.relpath(path, folder))[0])
        if stem in files:
            raise DataError(
                f"{path}: has the same name as {files[stem]}; choose one kind by a pattern, "
                f"such as {os.path.join(folder, '*' + os.path.splitext(path)[1])}"
            )
        files[stem] = path
    if not files:
        raise DataError(
            f"{os.path.join(base, rest) if rest else base}: holds no {', '.join(EXTENSIONS)} files"
            + "".join(f"; {sentence}" for sentence in sentences(left_out))
            + how_to_get
        )
    return Pictures(folder, files, left_out)


def composed(name: str) -> str:
    """Returns a name with accents as one sign each; macOS writes two, and shows the same name."""
    return unicodedata.normalize("NFC", name)


def pair(
    images: Pictures, labels: Pictures | None, *, image_suffix: str = "", label_suffix: str = ""
) -> Pairs:
    """Pairs images and labels whose names agree except for the suffixes.

    Label files without the suffix are other products of the data set and are left out.
    """
    of_key = _by_key(images, image_suffix)
    if not of_key:
        raise DataError(f"{images.folder}: no image name ends in {image_suffix!r}")
    others = [path for stem, path in images.files.items() if not stem.endswith(image_suffix)]
    left_out = [*images.left_out]
    left_out += [LeftOut(path, f"its name does not end in {image_suffix!r}") for path in others]
    if labels is None:
        return Pairs(of_key, {}, "", sentences(left_out))
    of_label = _by_key(labels, label_suffix)
    left_out += [left for left in labels.left_out if not left.other_kind]
    lone = [path for key, path in of_label.items() if key not in of_key]
    left_out += [LeftOut(path, "a label without an image") for path in lone]
    pattern = os.path.join(labels.folder, f"*{label_suffix}.png")
    return Pairs(of_key, of_label, pattern, sentences(left_out))


def read_list(path: str | os.PathLike, *, sha256: str = "") -> tuple[str, ...]:
    """Returns the lines of a list, unchanged.

    Args:
      path: a text file, UTF-8 or UTF-16; bytes of names that are not UTF-8 are kept.
      sha256: the required SHA-256 of the file, if any.

    Raises:
      DataError: the file is missing, is not text, or has another SHA-256.
    """
    data = read_bytes(path)
    if sha256 and (digest := hashlib.sha256(data).hexdigest()) != sha256:
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


def write_list(path: pathlib.Path, rows: Mapping[str, str], *, title: str) -> None:
    """Writes a list: a comment, then each name with a tab and a remark."""
    lines = [f"# {title}"]
    lines += [f"{quoted(name)}\t{' '.join(remark.split())}" for name, remark in rows.items()]
    write_bytes(path, ("\n".join(lines) + "\n").encode(errors="backslashreplace"))


def quoted(name: str) -> str:
    """Returns a name as it is written to a list: plain if that is safe, or as a JSON string."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if plain and name else json.dumps(name)


def choose(keys: Sequence[str], lines: Sequence[str], *, what: str, suffix: str = "") -> list[str]:
    """Returns the key that each line of a list names.

    Args:
      keys: the keys of all examples.
      lines: the lines of the list.
      what: the list's name in errors.
      suffix: the suffix of image names that keys do not contain.

    Raises:
      DataError: a line names no image or several images.
    """
    whole = set(keys)
    by_end = collections.defaultdict[str, list[str]](list)
    for key in keys:
        by_end[os.path.basename(key)].append(key)
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


def _examine(
    entry: os.DirEntry, extensions: Collection[str]
) -> Literal["file", "folder"] | LeftOut:
    """Returns whether an entry of a folder is a file to read or a folder, or why it is neither."""
    extension = os.path.splitext(entry.name)[1].lower()
    try:
        if entry.is_symlink():
            entry.stat()  # an error if the link dangles
        # The folder itself tells the kinds of other entries, which saves a request for each file.
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError as error:
        # A dangling link with a picture's name becomes an error when the picture is read.
        return "file" if extension in extensions else LeftOut(entry.path, reason(entry.path, error))
    if entry.name.startswith("."):
        return LeftOut(entry.path, "hidden")
    if is_folder:
        return "folder"
    if not is_file:
        return LeftOut(entry.path, "neither a file nor a folder")
    return "file" if extension in extensions else _of_other_kind(entry.path)


def _of_other_kind(path: str) -> LeftOut:
    extension = os.path.splitext(path)[1].lower() or "a name without extension"
    return LeftOut(path, f"{extension} is not read", other_kind=True)


def literal(root: str, pattern: str) -> tuple[str, str]:
    """Splits a path below a root into the part that exists literally, and the rest."""
    parts = pathlib.PurePath(root, pattern).parts
    base = parts[0] if os.path.isabs(os.path.join(root, pattern)) else ""
    parts = parts[1:] if base else parts
    for number, part in enumerate(parts):
        if not os.path.lexists(os.path.join(base, part)):
            return base or ".", os.path.join(*parts[number:])
        base = os.path.join(base, part)
    return base or ".", ""


def _glob(base: str, pattern: str) -> Walk:
    """Finds the files of a pattern below a folder; each real one once, by its shortest path."""
    paths = glob.iglob(os.path.join(glob.escape(base), pattern), recursive=True)
    files: dict[tuple[str, str], str] = {}
    left_out = []
    for path in sorted(paths, key=lambda p: (p.count(os.sep), p)):
        extension = os.path.splitext(path)[1].lower()
        if os.path.isdir(path):
            continue
        if extension not in EXTENSIONS:
            left_out.append(_of_other_kind(path))
            continue
        real = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        if files.setdefault(real, path) != path:
            left_out.append(LeftOut(path, f"the same file as {files[real]}"))
    return Walk(tuple(sorted(files.values())), tuple(left_out))


def _by_key(pictures: Pictures, suffix: str) -> dict[str, str]:
    files = pictures.files.items()
    return {stem.removesuffix(suffix): path for stem, path in files if stem.endswith(suffix)}


def _names(line: str) -> list[str]:
    """Returns the possible names in a line, the likeliest first."""
    if line.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(line)
            if line[end : end + 1] in ("", "\t"):
                return [name]
        except ValueError:
            pass  # a plain name that begins with a quotation mark
    name = line.split("\t")[0]
    names = [name, name.strip()]
    first = re.split(r"[\s,;]", name.strip(), maxsplit=1)[0]
    if first.lower().endswith(EXTENSIONS):  # a line "images/a.png labels/a.png", or with a comma
        names.append(first)
    names += [name.replace("\\", "/") for name in names if "\\" in name]  # of Windows
    return list(dict.fromkeys([*names, *map(composed, names)]))


def _matches(
    names: Sequence[str], whole: set[str], by_end: Mapping[str, list[str]], suffix: str
) -> list[str]:
    """Returns the keys of a name: the whole one, else those that agree with it in most folders."""
    for form in (form for name in names for form in _forms(name, suffix)):
        if form in whole:
            return [form]
    # Of a line "images/a.png labels/b.png", the end of the whole is the label's.
    for form in (form for name in reversed(names) for form in _forms(name, suffix)):
        alike = {key: _agreement(form, key) for key in by_end.get(os.path.basename(form), ())}
        if most := max(alike.values(), default=0):
            return [key for key, parts in alike.items() if parts == most]
    return []


def _agreement(name: str, key: str) -> int:
    """Returns how many last parts two paths have in common if one is the end of the other, or 0."""
    ours, theirs = pathlib.PurePosixPath(name).parts, pathlib.PurePosixPath(key).parts
    # A comment may name an image that is not to be used, with its folders.
    common = len(ours) if name.startswith("#") else min(len(ours), len(theirs))
    return common if ours[-common:] == theirs[-common:] else 0


def _forms(name: str, suffix: str) -> list[str]:
    """Returns a name, without its picture's extension, and without the suffix of images."""
    ends = [extension for extension in EXTENSIONS if name.lower().endswith(extension)]
    bare = name[: -len(ends[0])] if ends else name
    return [name, bare, bare.removesuffix(suffix)]
