"""TFDS builders: the built-in pair, and data sets of files stored as array_record shards.

Importing this module registers them with tensorflow_datasets: `tfds.load("gta5/all",
download_and_prepare_kwargs=...)` prepares a data set from the folder that its `manual_dir` is.
`stored` does the same for a `Dataset`, at the resolution that is trained on.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from rtda_jax.data import decode, geometry, labels, parts, pictures, shards, spec
from rtda_jax.data.dataset import Dataset, Files
from rtda_jax.data.geometry import tf
from rtda_jax.data.layouts import HINT, LAYOUTS
from rtda_jax.data.parts import Example, Maker
from rtda_jax.errors import DataError, lookup, one_of

# The built-in pair: the examples of each split, and what they are rendered from.
STREETS_SIZE = (96, 192)
STREETS_SEED = 0
STREETS_SPLITS = {"game_train": 500, "game_val": 100, "camera_train": 500, "camera_val": 100}

SPLIT = "examples"  # a configuration holds one split of its source; TFDS reserves the name "all"
IMAGES = {"png": pictures.png, "webp": pictures.webp, "jpeg": pictures.jpeg}
# Part of the names of stored data sets: if the reader gives other pixels, it is another data set.
_READER = 2
_NO_LABEL = np.full((1, 1), labels.IGNORE, np.uint8)  # fills the label of unlabelled examples


class Parted(tfds.core.GeneratorBasedBuilder):
    """A builder whose examples are made in parallel, in parts that survive an interruption."""

    VERSION = tfds.core.Version("1.0.0")
    code_path: ClassVar = None  # TFDS looks for checksum files there; we have none

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "key": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1)),
                }
            ),
            metadata=tfds.core.MetadataDict(keys={}),
            disable_shuffling=True,
        )

    def _finished(
        self, split: str, maker: Maker, arguments: dict[str, Any], total: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Makes the parts, then passes their examples to TFDS."""
        folder = self._parts / split
        what = f"preparing {self.name} {split}"
        parts.make(folder, maker, arguments, total=total, what=what)
        # TFDS sorts the examples by 128-bit numbers. It divides those of a large set by ranges of
        # numbers among 1000 files, which it sorts in memory one by one.
        step = 2**128 // total
        keys = []
        for number, example in enumerate(parts.read_all(folder, arguments)):
            keys.append(example.key)
            yield (
                number * step,
                {
                    "key": os.fsencode(example.key),
                    "image": io.BytesIO(example.image),
                    "label": io.BytesIO(example.label),
                },
            )
        self.info.metadata["keys"][split] = keys

    @property
    def _parts(self) -> pathlib.Path:
        return pathlib.Path(self.data_dir).parent / "parts"

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        super()._download_and_prepare(*args, **kwargs)
        shutil.rmtree(self._parts, ignore_errors=True)


def _renderer() -> str:
    """Returns a digest of the renderer's source and of the set's constants."""
    digest = hashlib.sha256(repr((STREETS_SEED, STREETS_SPLITS)).encode())
    for path in sorted((pathlib.Path(__file__).parent / "streets").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class Streets(Parted):
    """The built-in pair of procedural street scenes, a "game" and a "camera"."""

    # Pictures from another version of the renderer belong to another data set.
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=f"{STREETS_SIZE[0]}x{STREETS_SIZE[1]}-{_renderer()}")
    ]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        return {split: self._generate_examples(split) for split in STREETS_SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        total = STREETS_SPLITS[split]
        arguments = {
            f"{first:05d}": (split, first, min(first + parts.PART, total))
            for first in range(0, total, parts.PART)
        }
        return self._finished(split, rendered, arguments, total)


def rendered(argument: tuple[str, int, int]) -> Iterator[Example]:
    """Renders examples first..last-1 of a split of `streets`."""
    from rtda_jax.data.streets import render

    split, first, last = argument
    domain, use = split.split("_")
    height, width = STREETS_SIZE
    # Both splits count from 0; other seeds keep their scenes apart, whatever their sizes.
    seed = 2 * STREETS_SEED + (use == "val")
    for index in range(first, last):
        image, label = render(domain, index, seed=seed, height=height, width=width)
        yield Example(f"{split}_{index:05d}", pictures.png(image), pictures.png(label))


@dataclasses.dataclass
class SceneConfig(tfds.core.BuilderConfig):
    """How a data set of files is stored.

    Attributes:
      dataset: the data set to store; None for the split `name` of a layout, from the manual_dir.
      size: (H, W) of the stored images and labels; if empty, they keep their sizes.
      resize: how images were resized, a key of `pictures.FILTERS`.
      image_format: key of `IMAGES`.
    """

    dataset: Dataset | None = None
    size: tuple[int, ...] = ()
    resize: str = "bilinear"
    image_format: str = "png"


class Folders(Parted):
    """Images in files, with labels if there are any.

    A subclass for each known layout reads its splits from TFDS's manual_dir.
    """

    layout: ClassVar[str] = ""
    BUILDER_CONFIGS: ClassVar[list] = []

    def _source(self, dl_manager: Any) -> Dataset:
        if getattr(self.builder_config, "dataset", None) is not None:
            return self.builder_config.dataset
        if not self.layout:
            raise DataError("folders are stored by rtda_jax.data.load, which says where they are")
        split = self.builder_config.name
        use = "labelled" if LAYOUTS[self.layout].splits[split].labels else "unlabelled"
        fields = spec.checked({"name": self.layout, "split": split, "use": use})
        # Raw ids are stored, so the class set does not matter.
        classes = labels.class_set("cityscapes19")
        survey = spec.survey(fields, pathlib.Path(dl_manager.manual_dir), classes)
        return survey.dataset(survey.keys)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        return {SPLIT: self._generate_examples(self._source(dl_manager))}

    def _generate_examples(self, source: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        arguments = {
            f"{first:06d}": Job(
                _part(source, first, first + parts.PART),
                config.size,
                config.resize,
                config.image_format,
            )
            for first in range(0, len(source), parts.PART)
        }
        return self._finished(SPLIT, stored_examples, arguments, len(source))


def _builder(name: str) -> type[Folders]:
    """Makes and registers the builder of a known layout; its configurations are the splits."""
    layout = lookup(LAYOUTS, name, "layout")
    fields = {
        # TFDS has a builder "cityscapes" of its own, which reads the archives.
        "name": "cityscapes_folders" if name == "cityscapes" else name,
        "layout": name,
        "BUILDER_CONFIGS": [SceneConfig(name=split) for split in layout.splits],
        "MANUAL_DOWNLOAD_INSTRUCTIONS": (
            f"Get {layout.how_to_get}; <data_dir> is TFDS's manual_dir here."
        ),
        "__doc__": layout.title,
        "__module__": __name__,
    }
    return type(f"{name.title().replace('_', '')}Folders", (Folders,), fields)


BUILDERS = {"folders": Folders} | {name: _builder(name) for name in LAYOUTS}


class Job(NamedTuple):
    """A part of a data set to store at a size (if empty, its own) in an image format."""

    dataset: Dataset
    size: tuple[int, ...]
    resize: str
    image_format: str


def stored_examples(job: Job) -> Iterator[Example]:
    """Yields the encoded examples of a job; a DataError names a file that cannot be stored."""
    dataset, size, resize, image_format = job
    for i, key in enumerate(dataset.keys):
        with decode.remedied(dataset):
            image, ids = decode.examine_ids(dataset, i)
        if size:
            image = geometry.resized(tf.constant(image), size, resize=resize).numpy()
        if ids is None:
            ids = _NO_LABEL
        elif size:
            ids = geometry.resized_label(tf.constant(ids), size).numpy()
        yield Example(key, IMAGES[image_format](image), pictures.png(ids))


def stored(
    dataset: Dataset,
    *,
    data_dir: pathlib.Path,
    size: tuple[int, ...] = (),
    resize: str = "bilinear",
    image_format: str = "png",
) -> Dataset:
    """Returns the same examples from array_record shards, which the first call writes.

    Images and labels are resized to `size` and stored below `data_dir/prepared`; labels keep their
    raw ids. The name of the shards contains a digest of their origin, so that changed files are
    stored again.

    Raises:
      DataError: names a file that cannot be stored; only finished parts are left behind, from which
        the next call continues.
      ConfigError: the image format is unknown, or the data set has the name of no layout.
    """
    if not isinstance(dataset.reader, Files):
        raise DataError(f"{dataset.name}: is stored already")
    one_of(image_format, IMAGES, "image format")
    name, _, split = dataset.name.partition("/")
    resolution = f"{size[0]}x{size[1]}" if size else "original"
    if size and resize != "bilinear":
        resolution += f"-{resize}"
    use = "unlabelled" if dataset.labelling is None else "labelled"
    split = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in split)[-60:]
    config = SceneConfig(
        name=f"{split}-{resolution}-{image_format}-{use}-{_digest(dataset)}",
        dataset=dataset,
        size=size,
        resize=resize,
        image_format=image_format,
    )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every configuration that is not listed
    try:
        if name not in BUILDERS:  # a layout that a configuration of the user's own has added
            BUILDERS[name] = _builder(name)
        builder = BUILDERS[name](config=config, data_dir=data_dir / "prepared")
    finally:
        logging.set_verbosity(verbosity)
    reader = shards.Shards(shards.prepare(builder), SPLIT)
    return dataclasses.replace(
        dataset,
        keys=reader.keys,
        reader=reader,
        labelling=dataset.labelling and labels.stored(dataset.labelling),
        lenient=frozenset(),
        remedy="",  # a damaged shard is no file of the user's
    )


def streets(data_dir: pathlib.Path, split: str) -> shards.Shards:
    """Returns a split of the built-in pair, which is rendered on the first call."""
    one_of(split, STREETS_SPLITS, "split of streets")
    return shards.Shards(shards.prepare(Streets(data_dir=data_dir)), split)


def cityscapes(data_dir: pathlib.Path, split: str) -> shards.Shards:
    """Returns Cityscapes as prepared by TFDS's own builder from archives in downloads/manual."""
    archives = tfds.builder_cls("cityscapes")
    # TFDS would look for checksum files with a package that it does not require.
    fields = {"name": archives.name, "code_path": None}
    builder = type("Archives", (archives,), fields, skip_registration=True)(
        config="semantic_segmentation", data_dir=data_dir, file_format="array_record"
    )
    manual = data_dir / "downloads" / "manual"
    files = [manual / f"{name}_trainvaltest.zip" for name in ("leftImg8bit", "gtFine")]
    missing = [str(path) for path in files if not path.exists()]
    if missing and not pathlib.Path(builder.data_dir).exists():
        zips = LAYOUTS["cityscapes"].how_to_get.split(",")[0]
        raise DataError(
            f"{', '.join(missing)}: no such file; get {zips} and lay them there unopened; {HINT}"
        )
    names = shards.Names("image_left", "segmentation_label", "image_id")
    return shards.Shards(shards.prepare(builder, manual_dir=manual), split, names)


def _part(dataset: Dataset, first: int, last: int) -> Dataset:
    """Returns examples first..last-1 of a data set of files."""
    reader = dataset.reader
    assert isinstance(reader, Files)
    return dataclasses.replace(
        dataset,
        keys=tuple(dataset.keys[first:last]),
        reader=Files(reader.images[first:last], reader.labels[first:last]),
        notes=(),
    )


def _digest(dataset: Dataset) -> str:
    """Returns a digest of the reader's version, keys, labelling, and sizes and times of files."""
    labelled = dataset.labelling is not None
    about = (
        _READER,
        labels.unnamed(dataset.labelling),
        sorted(dataset.lenient),
        tuple(dataset.keys),
        dataset.reader.fingerprint(labels=labelled),
    )
    return hashlib.sha256(repr(about).encode(errors="surrogateescape")).hexdigest()[:10]
