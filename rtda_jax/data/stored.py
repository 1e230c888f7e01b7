"""Data sets of files, and Cityscapes' archives, as array_record shards."""

import dataclasses
import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds
from absl import logging

from rtda_jax.data import builders, encode, labels, shards
from rtda_jax.data.dataset import Dataset, Files
from rtda_jax.data.errors import DataError
from rtda_jax.data.layouts import HINT, LAYOUTS


def stored(
    dataset: Dataset,
    *,
    data_dir: pathlib.Path,
    size: tuple[int, ...] = (),
    image_format: str = "png",
    workers: int | None = None,
) -> Dataset:
    """The same examples from array_record shards, written on the first call.

    Images and labels are resized to `size` and stored below `data_dir/prepared`; labels keep their
    raw ids. The shards' name holds a digest of what they were made from, so changed files are
    stored anew.

    Raises:
      DataError: a file that can not be stored, by name; nothing half-done is left behind but
        finished parts, with which the next call continues.
    """
    if not isinstance(dataset.reader, Files):
        raise DataError(f"{dataset.name}: is stored already")
    if image_format not in encode.IMAGES:
        known = ", ".join(encode.IMAGES)
        raise DataError(f"unknown image format {image_format!r}; known: {known}")
    name, _, split = dataset.name.partition("/")
    pixels = f"{size[0]}x{size[1]}" if size else "original"
    use = "unlabelled" if dataset.labelling is None else "labelled"
    split = "".join(sign if sign.isalnum() else "_" for sign in split)
    config = builders.SceneConfig(
        name=f"{split}-{pixels}-{image_format}-{use}-{encode.digest(dataset)}",
        dataset=dataset,
        size=size,
        image_format=image_format,
    )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every configuration that is not listed
    try:
        builder = builders.BUILDERS[name](
            config=config, data_dir=data_dir / "prepared", workers=workers
        )
    finally:
        logging.set_verbosity(verbosity)
    reader = shards.Shards(shards.prepare(builder), builders.SPLIT)
    labelling = dataset.labelling and labels.STORED.get(dataset.labelling, dataset.labelling)
    return dataclasses.replace(
        dataset, keys=reader.keys, reader=reader, labelling=labelling, lenient=frozenset()
    )


def cityscapes(root: pathlib.Path, split: str) -> shards.Shards:
    """Cityscapes as TFDS's own builder prepares it from the archives in downloads/manual."""
    archives = tfds.builder_cls("cityscapes")

    class Archives(archives, skip_registration=True):  # type: ignore[valid-type,misc,call-arg]
        name = archives.name
        # TFDS would look for checksum files with a package that it does not require.
        code_path: ClassVar = None

    builder = Archives(config="semantic_segmentation", data_dir=root, file_format="array_record")
    manual = root / "downloads" / "manual"
    files = [manual / f"{name}_trainvaltest.zip" for name in ("leftImg8bit", "gtFine")]
    missing = [str(path) for path in files if not path.exists()]
    if missing and not pathlib.Path(builder.data_dir).exists():
        raise DataError(
            f"{', '.join(missing)}: no such file; get {LAYOUTS['cityscapes'].get.split(',')[0]} "
            f"and lay them there unopened; {HINT}"
        )
    names = shards.Names("image_left", "segmentation_label", "image_id")
    return shards.Shards(shards.prepare(builder, manual_dir=manual), split, names)
