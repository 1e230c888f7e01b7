"""Finding image and label files, and pairing them by name: nothing is dropped in silence."""

import collections
import glob
import os
import pathlib
import stat
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from rtda_jax.data.class_sets import FILE
from rtda_jax.data.dataset import Files
from rtda_jax.data.pictures import EXTENSIONS, reason
from rtda_jax.errors import DataError

_NAMED = 3  # files that a sentence names before it only counts


class LeftOut(NamedTuple):
    """A file or folder that is not read, and why, in words that follow "left out"."""

    path: str
    why: str


class Walk(NamedTuple):
    """The files at any depth of a folder, sorted, and what was left out."""

    files: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


class Found(NamedTuple):
    """Files below a folder: path relative to it without extension -> whole path."""

    folder: str
    files: dict[str, str]
    left_out: tuple[LeftOut, ...] = ()


class Pairs(NamedTuple):
    """Key -> image, key -> label (none for unlabelled sets), and what to know about them.

    Attributes:
      images, labels: paths.
      pattern: where labels were looked for, in words.
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

    Every real folder is read once, however many links lead to it, and under its own path rather
    than a link's where it has one. Hidden files and folders are left out.

    Args:
      folder: where to look.
      extensions: in lower case, with their dots.
      without: a folder that is not entered and not mentioned, such as that of results.
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
            if entry.name == FILE:
                continue
            why = _why_not(entry, extensions)
            if why is None:
                files.append(entry.path)
            elif why:
                left_out.append(LeftOut(entry.path, why))
            elif entry.is_symlink():
                links.append(entry.path)
            else:
                folders.append(entry.path)
    return Walk(tuple(sorted(files)), tuple(left_out))


def sentences(left_out: Iterable[LeftOut]) -> tuple[str, ...]:
    """Says what was left out: one sentence for each reason, which names the first few files."""
    of_reason = collections.defaultdict(list)
    for path, why in left_out:
        of_reason[why].append(path)
    return tuple(
        f"{len(paths)} left out, {why}: {named(paths)}" for why, paths in of_reason.items()
    )


def named(paths: Sequence[str]) -> str:
    """Names the first few of some files."""
    return ", ".join(paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")


def find(root: pathlib.Path, pattern: str, *, get: str) -> Found:
    """Finds the pictures that a path or a pattern means.

    An existing path is taken as it is, whatever signs are in it: a folder means the pictures at any
    depth of it, a file itself. Otherwise `*`, `?` and `[...]` are those of a glob.

    Args:
      root: stands before relative paths.
      pattern: the path or pattern.
      get: how to get the data, for the error.

    Raises:
      DataError: nothing is there, or two pictures have one name.
    """
    base, rest = _literal(os.fspath(root), os.path.expanduser(pattern))
    if not rest and os.path.isdir(base):
        folder, paths, left_out = base, *walk(base)
    elif not rest:
        folder, paths, left_out = os.path.dirname(base), (base,), ()
    elif os.path.isdir(base) and glob.has_magic(pathlib.PurePath(rest).parts[0]):
        folder, paths, left_out = base, *_glob(base, rest)
    else:
        missing = os.path.join(base, pathlib.PurePath(rest).parts[0])
        raise DataError(f"{missing}: no such folder (looking for {pattern!r}); {get}")
    files: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
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
            + f"; {get}"
        )
    return Found(folder, files, left_out)


def pair(
    images: Found, labels: Found | None, *, image_suffix: str = "", label_suffix: str = ""
) -> Pairs:
    """Pairs images and labels whose names agree but for the suffixes.

    Label files that do not end in their suffix are other products of the data set.
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
    left_out += [left for left in labels.left_out if not left.why.endswith(_UNREAD)]
    lone = [path for key, path in of_label.items() if key not in of_key]
    left_out += [LeftOut(path, "a label without an image") for path in lone]
    pattern = os.path.join(labels.folder, f"*{label_suffix}.png")
    return Pairs(of_key, of_label, pattern, sentences(left_out))


def complete(pairs: Pairs, keys: Collection[str], *, labelled: bool) -> Files:
    """Returns the files of some examples; DataError names images that have no label."""
    if not labelled:
        return Files(tuple(pairs.images[key] for key in keys))
    lonely = [pairs.images[key] for key in keys if key not in pairs.labels]
    if lonely:
        raise DataError(
            f"{named(lonely)}: {len(lonely)} of {len(keys)} images have no label; looked for them "
            f"as {pairs.pattern}; --job=check_data writes a quarantine list that leaves them out"
        )
    return Files(tuple(pairs.images[key] for key in keys), tuple(pairs.labels[key] for key in keys))


_UNREAD = "is not read"


def _why_not(entry: os.DirEntry, extensions: Collection[str]) -> str | None:
    """Says why an entry of a folder is left out; None for a file that is read, "" for a folder."""
    extension = os.path.splitext(entry.name)[1].lower()
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        # A picture's dangling link is an error of the picture, when it is read.
        return None if extension in extensions else reason(entry.path, error)
    if entry.name.startswith("."):
        return "hidden"
    if stat.S_ISDIR(mode):
        return ""
    if not stat.S_ISREG(mode):
        return "neither a file nor a folder"
    if extension in extensions:
        return None
    return f"{extension or 'a name without extension'} {_UNREAD}"


def _literal(root: str, pattern: str) -> tuple[str, str]:
    """Splits a path below a root into what exists by that very name, and the rest."""
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
    search = os.path.join(glob.escape(base), pattern)
    files: dict[tuple[str, str], str] = {}
    left_out = []
    for path in sorted(glob.iglob(search, recursive=True), key=lambda p: (p.count(os.sep), p)):
        extension = os.path.splitext(path)[1].lower()
        if os.path.isdir(path):
            continue
        if extension not in EXTENSIONS:
            left_out.append(LeftOut(path, f"{extension or 'a name without extension'} {_UNREAD}"))
            continue
        real = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        if files.setdefault(real, path) != path:
            left_out.append(LeftOut(path, f"the same file as {files[real]}"))
    return Walk(tuple(sorted(files.values())), tuple(left_out))


def _by_key(found: Found, suffix: str) -> dict[str, str]:
    return {
        stem.removesuffix(suffix): path
        for stem, path in found.files.items()
        if stem.endswith(suffix)
    }
