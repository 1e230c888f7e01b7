"""TFDS builders: importing this module registers them with tensorflow_datasets."""

import hashlib
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

from rtda_jax.data import parts
from rtda_jax.data.parts import Example

# The built-in pair: examples of each split, and what they are rendered from.
STREETS_SIZE = (96, 192)
STREETS_SEED = 0
STREETS_SPLITS = {"game_train": 500, "game_val": 100, "camera_train": 500, "camera_val": 100}


def _renderer() -> str:
    """A digest of the renderer's source and of the set's constants."""
    digest = hashlib.sha256(repr((STREETS_SEED, STREETS_SPLITS)).encode())
    for path in sorted((pathlib.Path(__file__).parent / "streets").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class Parted(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose examples are made by worker processes, in parts that can be resumed."""

    VERSION = tfds.core.Version("1.0.0")
    code_path: ClassVar = None  # of checksum files, which we have none of

    def __init__(self, *, workers: int | None = None, **kwargs: Any) -> None:
        self.workers = workers
        super().__init__(file_format="array_record", **kwargs)

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
        self, split: str, maker: parts.Maker, arguments: dict[str, Any], total: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Make the parts, then hand their examples to TFDS; the parts go when all are through."""
        folder = self._parts / split
        parts.make(
            folder,
            maker,
            arguments,
            total=total,
            what=f"preparing {self.name} {split}",
            workers=self.workers,
        )
        keys = []
        for number, example in enumerate(parts.examples(folder, arguments)):
            keys.append(example.key)
            yield (
                number,
                {
                    "key": example.key,
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
        parts.drop(self._parts)


class Streets(Parted):
    """The built-in pair of procedural street scenes, a "game" and a "camera"."""

    # Pictures drawn by another version of the renderer are another data set.
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
    """Render examples first..last-1 of a split of `streets`."""
    from rtda_jax.data.streets import render

    split, first, last = argument
    domain, use = split.split("_")
    height, width = STREETS_SIZE
    # Both splits count from 0: other seeds keep their scenes apart whatever their sizes.
    seed = 2 * STREETS_SEED + (use == "val")
    for index in range(first, last):
        image, label = render(domain, index, seed=seed, height=height, width=width)
        yield Example(f"{split}_{index:05d}", png(image), png(label))


def png(pixels: Any) -> bytes:
    """uint8 [H,W] or [H,W,3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
