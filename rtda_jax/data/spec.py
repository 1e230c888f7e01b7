"""Specifications of data sets in a config: their fields, and the files that they refer to."""

import dataclasses
import glob
import itertools
import os
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rtda_jax.data import labels as meanings
from rtda_jax.data import listing
from rtda_jax.data.dataset import Dataset, Files
from rtda_jax.data.labels import ClassSet, Labelling
from rtda_jax.data.layouts import HINT, LAYOUTS, Split
from rtda_jax.data.pictures import FILTERS
from rtda_jax.errors import DataError, lookup, named, one_of, require

_COMMON = {
    "use": "labelled",  # or "unlabelled": the labels are never looked for
    "quarantine": "",  # file of keys to leave out, written by check_data
    "store": "files",  # or "shards": decoded, resized and written once, then read from there
    "store_dir": "",  # where shards go, in its folder prepared; empty: data_dir
    "size": (),  # (H, W) of shards; empty: as the files are
    "resize": "bilinear",  # how images in shards got this size, or "bicubic"
    "format": "png",  # of images in shards: png, webp (both lossless) or jpeg
}
_FILES = {
    "list": "",  # file of the examples to use
    "list_sha256": "",  # that the list file must have
    "count": -1,  # examples there must be; 0: any number, -1: as the data set is known
}

# Name -> SHA-256 of splits/NAME.txt.
LISTS = {
    "camvid_train": "0f2b2149e1c9f0df5c4740d2532d6418b8163c47bd2994f198fc05a8a2108507",
    "camvid_val": "f80b1b93a53eb17ca8cdd58b5d6e8b0301f1efe0e3a17a7f63454d8c6473150d",
    "gta5_iast_omitted": "5a97f10491e83c1ffbb1f9b8e81d540a32c8faa16c17858dad973efa897557b6",
}

# The data sets that TFDS prepares; `survey` finds the files of all others.
PREPARED = ("streets", "cityscapes_tfds")

# The fields that a specification may have, and their defaults.
FIELDS: dict[str, dict[str, Any]] = {
    **{name: {"split": "", "use": "labelled"} for name in PREPARED},
    "folders": {
        **_COMMON,
        **_FILES,
        "images": "",  # a folder (searched at any depth), a file or a glob
        "labels": "",  # the same; empty: unlabelled
        # Key of labels.LABELLINGS, or a labels.json; empty: a labels.json in the folder of labels
        # (of a pattern: the folder before its first wildcard) or beside it, else that of
        # benchmark.classes if it is one, else cityscapes_ids.
        "labelling": "",
        "image_suffix": "",  # end of image names that label names lack
        "label_suffix": "",  # and the other way round
    },
    **{name: {"split": "", **_COMMON, **_FILES} for name in LAYOUTS},
}
USES = ("labelled", "unlabelled")
STORES = ("files", "shards")
_TRIED = 3  # images whose labels are looked for under other names
_KINDS = 8  # of labels of one image


class Survey(NamedTuple):
    """The files of a specification on disk, before their pairs are required."""

    name: str
    keys: tuple[str, ...]
    pairs: listing.Pairs
    classes: ClassSet
    labelling: Labelling | None
    lenient: frozenset[str]
    notes: tuple[str, ...]
    role: str = ""
    label_suffix: str = ""
    suffixes: tuple[tuple[str, str], ...] = ()  # with which names would agree, where none does

    def dataset(self, keys: Sequence[str]) -> Dataset:
        """Returns the data set of some keys; a DataError names images that have no label."""
        reader = Files(tuple(self.pairs.images[key] for key in keys))
        if self.labelling is not None:
            lonely = [self.pairs.images[key] for key in keys if key not in self.pairs.labels]
            if lonely:
                raise DataError(
                    f"{named(lonely)}: {len(lonely)} of {len(keys)} images have no label; "
                    f"looked for them as {self.pairs.pattern}; {self.how_to_pair()}"
                )
            reader = Files(reader.images, tuple(self.pairs.labels[key] for key in keys))
        return Dataset(
            self.name,
            keys,
            self.classes,
            self.labelling,
            reader,
            self.lenient,
            self.notes,
            self.role,
            f"check_data names all such files and writes the list for {self.field('quarantine')}",
        )

    def how_to_pair(self) -> str:
        """Returns what to do about images without a label: suffixes, or to leave them out."""
        if not self.suffixes:
            return "check_data writes a list that leaves them out, for " + self.field("quarantine")
        (image, label), *rest = self.suffixes
        others = [other for of_image, other in rest if of_image == image]
        shown = [f"{self.field('image_suffix')}={shlex.quote(image)}"] if image else []
        shown += [f"{self.field('label_suffix')}={shlex.quote(label)}"] if label else []
        more = f" (or {', '.join(others)})" if others else ""
        return f"images end in {image!r} and labels in {label!r}{more}: {' '.join(shown)}"

    def field(self, name: str) -> str:
        """Returns the flag of a field of this specification, or its name if no role is known."""
        return f"--config.benchmark.{self.role}.{name}" if self.role else f"the field {name}"


def checked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the specification with every field; a ConfigError names an invalid one."""
    spec = dict(spec)
    name = spec.pop("name", "")
    known = lookup(FIELDS, name, "data set")
    for field in spec:
        one_of(field, known, f"field of data set {name!r}")
    fields = {"name": name, **known, **spec}
    for field, choices in (("use", USES), ("store", STORES), ("resize", FILTERS)):
        if field in fields:
            one_of(fields[field], choices, field)
    for field, default in known.items():
        kind = (tuple, list) if isinstance(default, tuple) else type(default)
        value = fields[field]
        require(
            isinstance(value, kind) and not isinstance(value, bool),
            f"field {field} of data set {name!r} must be like {default!r}, got {value!r}",
        )
    size = tuple(fields.get("size", ()))
    whole = all(isinstance(side, int) and side > 0 for side in size)
    require(
        len(size) in (0, 2) and whole,
        f"field size of data set {name!r} must be (height, width), got {size!r}",
    )
    return fields


def is_labelled(spec: Mapping[str, Any]) -> bool:
    """Returns whether a specification names labels, which folders may lack."""
    fields = checked(spec)
    return fields["use"] == "labelled" and bool(fields.get("labels", True))


def survey(
    fields: Mapping[str, Any], root: pathlib.Path, classes: ClassSet, *, role: str = ""
) -> Survey:
    """Finds the files of a checked specification, paired by name; labels may still be missing.

    Raises:
      DataError: a folder is missing, a list does not fit, or the number of images is wrong.
    """
    place = (
        _own_folders(fields, root, classes) if fields["name"] == "folders" else _known(fields, root)
    )
    if place.labelling is not None:
        classes.lut(place.labelling)  # fails early where there is no map
    labelled = place.labelling is not None
    split, folder = place.split, place.folder
    paths = [split.images, split.labels] if labelled else [split.images]
    images, *rest = (
        listing.find(folder, path, how_to_get=place.how_to_get or begins(path, folder))
        for path in paths
    )
    labels = rest[0] if rest else None
    pairs = listing.pair(
        images, labels, image_suffix=place.image_suffix, label_suffix=place.label_suffix
    )
    alike = pairs.images.keys() & pairs.labels.keys()
    keys, notes = _chosen(tuple(pairs.images), place, fields)
    if not keys:
        raise DataError(f"{place.name}: the list names none of its {len(pairs.images)} images")
    # A list of the user is another split: the known count does not hold for it.
    known = 0 if fields["list"] else split.count
    count = known if fields["count"] < 0 else fields["count"]
    if count and len(keys) != count:
        raise DataError(
            f"{folder / split.images}: {len(keys)} images for {place.name}, expected {count}; the "
            f"spec's count=0 accepts any number{place.how_to_get}"
        )
    return Survey(
        place.name,
        keys,
        pairs,
        classes,
        place.labelling,
        place.lenient,
        (*pairs.notes, *notes),
        role,
        place.label_suffix,
        () if labels is None or alike else suffixes([*images.files], [*labels.files]),
    )


def suffixes(images: Sequence[str], labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Returns the ends of image names and label names without which most images have a label.

    There are several if the labels are of several kinds, such as ids and colours.
    """
    known = set(labels)

    def fits(ends: tuple[str, str]) -> bool:
        stems = [name.removesuffix(ends[0]) for name in images if name.endswith(ends[0])]
        return 2 * sum(stem + ends[1] in known for stem in stems) > len(images)

    for image in images[:_TRIED]:
        most = max((len(_common(image, label)) for label in labels), default=0)
        # "a_rgb" and "a_raw" have more in common than the name, which ends before the "_".
        part = re.fullmatch(r"(.*)[_. -].*", image[:most], re.DOTALL)
        starts = [len(part[1]), most] if part and len(images) > 1 else [most]
        for start in filter(None, starts):
            near = [label for label in labels if label.startswith(image[:start])][:_KINDS]
            ends = [(image[start:], label[start:]) for label in near]
            if fitting := tuple(filter(fits, ends)):
                return fitting
    return ()


def _common(one: str, other: str) -> str:
    """Returns the signs with which both texts begin."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in pairs)]


def begins(path: str, root: pathlib.Path) -> str:
    """Returns what an error says about a path that is not there: where a relative one starts."""
    path = os.path.expanduser(path)
    if os.path.isabs(path):
        return ""
    here, there = os.path.abspath(path), os.path.abspath(root / path)
    exists = os.path.lexists(path) or any(glob.iglob(path, recursive=True))
    meant = f"; did you mean {here}?" if exists and here != there else ""
    return f"; a relative path starts at {root} (--data_dir){meant}"


def users_file(name: str, root: pathlib.Path) -> pathlib.Path:
    """Returns the path of a file that a specification names; DataError if there is none."""
    path = root / os.path.expanduser(name)
    if not path.exists():
        raise DataError(f"{path}: no such file{begins(name, root)}")
    return path


def packaged(name: str) -> tuple[str, ...]:
    """Returns the names in a list of this package."""
    path = pathlib.Path(__file__).parent / "splits" / f"{name}.txt"
    lines = listing.read_list(path, sha256=LISTS[name])
    return tuple(line for line in lines if line and not line.startswith("#"))


@dataclasses.dataclass(frozen=True)
class _Place:
    """The place of a specification's files, and their meaning."""

    name: str
    folder: pathlib.Path
    split: Split
    labelling: Labelling | None
    how_to_get: str
    image_suffix: str
    label_suffix: str
    lenient: frozenset[str] = frozenset()


def _own_folders(fields: Mapping[str, Any], root: pathlib.Path, classes: ClassSet) -> _Place:
    require(
        fields["images"],
        "folders: no images given; set the spec's field images to a folder or a glob, for instance "
        f"--config.benchmark.source.images=/data/images; {HINT}",
    )
    labelled = is_labelled(fields)
    return _Place(
        name=f"folders/{fields['images']}",
        folder=root,
        split=Split(fields["images"], fields["labels"]),
        labelling=_own_labelling(fields, root, classes) if labelled else None,
        how_to_get="",
        image_suffix=fields["image_suffix"],
        label_suffix=fields["label_suffix"],
    )


def _own_labelling(fields: Mapping[str, Any], root: pathlib.Path, classes: ClassSet) -> Labelling:
    """Returns the labelling of folders; see the field `labelling`."""
    name = fields["labelling"]
    if name.endswith(".json"):
        return meanings.labelling(str(users_file(name, root)))
    if name:
        return meanings.labelling(name)
    # Of a pattern, the folder that it searches: it may name many folders below.
    folder = pathlib.Path(listing.literal(str(root), os.path.expanduser(fields["labels"]))[0])
    for beside in (folder / meanings.DEFINITION_FILE, folder.parent / meanings.DEFINITION_FILE):
        if beside.is_file():
            return meanings.labelling(str(beside))
    if isinstance(classes.official, Labelling):
        return classes.official
    return meanings.labelling("cityscapes_ids")


def _known(fields: Mapping[str, Any], root: pathlib.Path) -> _Place:
    layout = LAYOUTS[fields["name"]]
    split = lookup(layout.splits, fields["split"], f"split of {fields['name']}")
    name = f"{fields['name']}/{fields['split']}"
    labelled = fields["use"] == "labelled"
    require(split.labels or not labelled, f"{name} has no labels; its use must be 'unlabelled'")
    return _Place(
        name=name,
        folder=root / layout.folder,
        split=split,
        labelling=meanings.labelling(layout.labelling) if labelled else None,
        how_to_get=f"; get {fields['name']}: {layout.how_to_get}; {HINT}",
        image_suffix=layout.image_suffix,
        label_suffix=layout.label_suffix,
        lenient=layout.lenient,
    )


def _chosen(
    keys: tuple[str, ...], place: _Place, fields: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the examples of a split and of the user's list, and notes about repetitions."""
    split, notes = place.split, []
    if split.only:
        keys = tuple(key for key in keys if key.split(os.sep)[0] in split.only)
    chosen_by = [(split.names, packaged(split.names))] if split.names else []
    if split.listed:
        path = place.folder / split.listed
        chosen_by.append((str(path), listing.read_list(path)))
    if fields["list"]:
        path = users_file(fields["list"], place.folder)
        chosen_by.append((str(path), listing.read_list(path, sha256=fields["list_sha256"])))
    for what, lines in chosen_by:
        chosen = listing.choose(keys, lines, what=what, suffix=place.image_suffix)
        repeated = len(chosen) - len(set(chosen))
        if repeated:
            notes.append(f"{what}: {repeated} lines repeat an image; each image is used once")
        members = set(chosen)
        keys = tuple(key for key in keys if key in members)
    omitted = {name for listed in split.without for name in packaged(listed)}
    return tuple(key for key in keys if key not in omitted), tuple(notes)
