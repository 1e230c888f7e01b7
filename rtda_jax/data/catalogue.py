"""From a spec in a config to a Dataset."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from rtda_jax.data import listing, shards, splits
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import ClassSet, class_set
from rtda_jax.data.layouts import HINT, LAYOUTS, Split

_COMMON = {
    "use": "labelled",  # or "unlabelled": the labels are never looked for
    "quarantine": "",  # file of keys to leave out, written by check_data
    "store": "files",  # or "shards": decoded, resized and written once, then read from there
    "store_dir": "",  # where shards go, in its folder prepared; empty: data_dir
    "size": (),  # (H, W) of shards; empty: as the files are
    "format": "png",  # of images in shards: png, webp (both lossless) or jpeg
}
_FILES = {
    "list": "",  # file of the examples to use
    "list_sha256": "",  # that the list file must have
    "count": -1,  # examples there must be; 0: any number, -1: as the data set is known
}

# The fields a spec may have, and what they are when left out.
FIELDS: dict[str, dict[str, Any]] = {
    "streets": {"split": "", "use": "labelled"},
    "cityscapes_tfds": {"split": "", "use": "labelled"},
    "folders": {
        **_COMMON,
        **_FILES,
        "images": "",  # a folder (searched at any depth) or a glob
        "labels": "",  # the same; empty: unlabelled
        "labelling": "cityscapes_ids",  # key of labels.LABELLINGS, or "classes": 0..K-1
        "image_suffix": "",  # end of image names that label names lack
        "label_suffix": "",  # and the other way round
    },
    **{name: {"split": "", **_COMMON, **_FILES} for name in LAYOUTS},
}
USES = ("labelled", "unlabelled")
STORES = ("files", "shards")


class Survey(NamedTuple):
    """What a spec finds on disk, before any pair is asked for."""

    name: str
    keys: tuple[str, ...]
    pairs: listing.Pairs
    labelling: str | None
    lenient: frozenset[str]


def load(spec: Mapping[str, Any], *, data_dir: str | os.PathLike, classes: str) -> Dataset:
    """The data set a spec describes, its pairs checked for presence; nothing is decoded yet.

    Args:
      spec: {"name": ..., "split": ..., "use": "labelled" | "unlabelled", ...}; all fields and
        their defaults stand in `FIELDS`. Paths are relative to data_dir or absolute.
      data_dir: where the data sets lie; empty is $RTDA_JAX_DATA or ~/.cache/rtda_jax.
      classes: key of labels.CLASS_SETS that labels are mapped to.

    Raises:
      DataError: unknown names, a missing folder (it says how to get the data), a missing pair.
    """
    fields = checked(spec)
    mapped_to = class_set(classes)
    root = root_of(data_dir)
    if fields["name"] == "streets":
        return _streets(fields, root, mapped_to)
    if fields["name"] == "cityscapes_tfds":
        return _cityscapes_tfds(fields, root, mapped_to)
    found = survey(fields, root)
    keys = found.keys
    if fields["quarantine"]:
        left_out = splits.read(root / os.path.expanduser(fields["quarantine"]))
        dropped = splits.choose(keys, left_out, what=fields["quarantine"])
        keys = tuple(key for key in keys if key not in dropped)
    labelled = found.labelling is not None
    reader = listing.complete(found.pairs, keys, labelled=labelled)
    dataset = Dataset(found.name, keys, mapped_to, found.labelling, reader, found.lenient)
    if labelled:
        mapped_to.lut(str(dataset.labelling))
    if fields["store"] == "files":
        return dataset
    return _from_shards(dataset, fields, root)


def checked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with every field; DataError for names it does not know."""
    spec = dict(spec)
    name = spec.pop("name", None)
    if name not in FIELDS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(sorted(FIELDS))}; {HINT}")
    unknown = sorted(set(spec) - set(FIELDS[name]))
    if unknown:
        raise DataError(
            f"data set {name!r} has no field {', '.join(unknown)}; "
            f"known: {', '.join(sorted(FIELDS[name]))}"
        )
    fields = {"name": name, **FIELDS[name], **spec}
    for field, known in (("use", USES), ("store", STORES)):
        if field in fields and fields[field] not in known:
            raise DataError(f"{field} must be one of {', '.join(known)}, got {fields[field]!r}")
    return fields


def root_of(data_dir: str | os.PathLike) -> pathlib.Path:
    """The folder that relative paths start from."""
    return pathlib.Path(data_dir).expanduser() if str(data_dir) else shards.default_dir()


def survey(fields: Mapping[str, Any], root: pathlib.Path) -> Survey:
    """The files of a checked spec, paired by name; pairs may still be missing.

    Raises:
      DataError: missing folders, lists that do not fit, a wrong number of images.
    """
    labelled = fields["use"] == "labelled"
    if fields["name"] == "folders":
        split = Split(fields["images"], fields["labels"])
        name, folder, get = f"folders/{split.images}", root, HINT
        labelling, lenient = fields["labelling"], frozenset[str]()
        suffixes = {s: fields[s] for s in ("image_suffix", "label_suffix")}
        labelled = labelled and bool(split.labels)
        if not split.images:
            raise DataError(
                "folders: no images given; set the spec's field images to a folder or a glob, "
                f"for instance --config.benchmark.source.images=/data/images; {HINT}"
            )
    else:
        layout = LAYOUTS[fields["name"]]
        split = split_of(fields)
        name, folder = f"{fields['name']}/{fields['split']}", root / layout.folder
        get = f"get {fields['name']}: {layout.get}; {HINT}"
        labelling, lenient = layout.labelling, layout.lenient
        suffixes = {"image_suffix": layout.image_suffix, "label_suffix": layout.label_suffix}
        if labelled and not split.labels:
            raise DataError(f"{name} has no labels; its use must be 'unlabelled'")
    images = listing.find(folder, split.images, get=get)
    labels = listing.find(folder, split.labels, get=get) if labelled else None
    pairs = listing.pair(images, labels, **suffixes)
    keys = _chosen(tuple(pairs.images), split, fields, folder, suffixes["image_suffix"])
    # A list of the user is another split: the known count does not hold for it.
    known = 0 if fields["list"] else split.count
    count = known if fields["count"] < 0 else fields["count"]
    if count and len(keys) != count:
        raise DataError(
            f"{folder / split.images}: {len(keys)} images for {name}, expected {count}; the spec's "
            f"count=0 accepts any number; {get}"
        )
    return Survey(name, keys, pairs, labelling if labelled else None, lenient)


def split_of(fields: Mapping[str, Any]) -> Split:
    """The split a spec names; DataError lists the known ones."""
    known = LAYOUTS[fields["name"]].splits
    if fields["split"] not in known:
        raise DataError(
            f"{fields['name']} has no split {fields['split']!r}; known: {', '.join(known)}"
        )
    return known[fields["split"]]


def _chosen(
    keys: tuple[str, ...],
    split: Split,
    fields: Mapping[str, Any],
    folder: pathlib.Path,
    suffix: str,
) -> tuple[str, ...]:
    if split.only:
        keys = tuple(key for key in keys if key.split(os.sep)[0] in split.only)
    lists = [(split.names, splits.packaged(split.names))] if split.names else []
    if split.listed:
        lists.append((str(folder / split.listed), splits.read(folder / split.listed)))
    if fields["list"]:
        path = folder / os.path.expanduser(fields["list"])
        lists.append((str(path), splits.read(path, sha256=fields["list_sha256"])))
    for what, names in lists:
        chosen = splits.choose(keys, names, what=what, suffix=suffix)
        keys = tuple(key for key in keys if key in chosen)
    omitted = {name for listed in split.without for name in splits.packaged(listed)}
    return tuple(key for key in keys if key not in omitted)


def _streets(fields: dict[str, Any], root: pathlib.Path, classes: ClassSet) -> Dataset:
    from rtda_jax.data import builders

    split = fields["split"]
    if split not in builders.STREETS_SPLITS:
        known = ", ".join(builders.STREETS_SPLITS)
        raise DataError(f"streets has no split {split!r}; known: {known}")
    labelling = "cityscapes_ids" if fields["use"] == "labelled" else None
    if labelling:
        classes.lut(labelling)  # fails early where there is no map
    reader = shards.Shards(shards.prepare(builders.Streets(data_dir=root)), split)
    return Dataset(f"streets/{split}", reader.keys, classes, labelling, reader)


def _cityscapes_tfds(fields: dict[str, Any], root: pathlib.Path, classes: ClassSet) -> Dataset:
    from rtda_jax.data import stored

    reader = stored.cityscapes(root, fields["split"])
    labelling = "cityscapes_ids" if fields["use"] == "labelled" else None
    return Dataset(f"cityscapes_tfds/{fields['split']}", reader.keys, classes, labelling, reader)


def _from_shards(dataset: Dataset, fields: dict[str, Any], root: pathlib.Path) -> Dataset:
    from rtda_jax.data import stored

    place = root / os.path.expanduser(fields["store_dir"]) if fields["store_dir"] else root
    return stored.stored(
        dataset, data_dir=place, size=tuple(fields["size"]), image_format=fields["format"]
    )
