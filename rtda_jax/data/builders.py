"""TFDS builders: importing this module registers them with tensorflow_datasets.

`tfds.load("gta5/all", download_and_prepare_kwargs=...)` prepares a data set from the folder that
its `manual_dir` is; stored.py does the same for a Dataset at a training resolution.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from rtda_jax.data import catalogue, encode, labels, parts
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.layouts import LAYOUTS
from rtda_jax.data.parted import Parted
from rtda_jax.data.worker import Example

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
        yield Example(f"{split}_{index:05d}", encode.png(image), encode.png(label))


# A configuration holds one split of the source; TFDS reserves the name "all".
SPLIT = "examples"


@dataclasses.dataclass
class SceneConfig(tfds.core.BuilderConfig):
    """How a data set of files is stored.

    Attributes:
      dataset: what is stored; None: the split `name` of the layout, from the manual_dir.
      size: (H, W) of the stored images, empty: as they are. Labels are resized by nearest.
      image_format: key of encode.IMAGES.
    """

    dataset: Dataset | None = None
    size: tuple[int, ...] = ()
    image_format: str = "png"


class Folders(Parted):
    """Images, and labels if there are any, that lie in files."""

    BUILDER_CONFIGS: ClassVar[list] = []

    def _source(self, dl_manager: Any) -> Dataset:
        dataset = getattr(self.builder_config, "dataset", None)
        if dataset is None:
            raise DataError("folders are stored by rtda_jax.data.load, which says where they are")
        return dataset

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        return {SPLIT: self._generate_examples(self._source(dl_manager))}

    def _generate_examples(self, source: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        arguments = {
            f"{first:06d}": encode.Job(
                encode.part(source, first, first + parts.PART), config.size, config.image_format
            )
            for first in range(0, len(source), parts.PART)
        }
        return self._finished(SPLIT, encode.examples, arguments, len(source))


class Scenes(Folders, skip_registration=True):  # type: ignore[call-arg]
    """A known data set; its configurations are its splits."""

    layout: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        layout = LAYOUTS[cls.layout]
        cls.BUILDER_CONFIGS = [SceneConfig(name=split) for split in layout.splits]
        cls.MANUAL_DOWNLOAD_INSTRUCTIONS = (
            f"Get {layout.get}; <data_dir> is TFDS's manual_dir here."
        )
        super().__init_subclass__(**kwargs)

    def _source(self, dl_manager: Any) -> Dataset:
        if self.builder_config.dataset is not None:
            return self.builder_config.dataset
        split = LAYOUTS[self.layout].splits[self.builder_config.name]
        use = "labelled" if split.labels else "unlabelled"
        fields = catalogue.checked(
            {"name": self.layout, "split": self.builder_config.name, "use": use}
        )
        found = catalogue.survey(fields, pathlib.Path(dl_manager.manual_dir))
        reader = catalogue.listing.complete(
            found.pairs, found.keys, labelled=found.labelling is not None
        )
        # Raw ids are stored: the class set plays no part.
        anything = labels.class_set("cityscapes19")
        return Dataset(found.name, found.keys, anything, found.labelling, reader, found.lenient)


class CityscapesFolders(Scenes):
    """Cityscapes, read from its folders (TFDS's own builder reads its archives)."""

    layout = "cityscapes"


class CityscapesS1(Scenes):
    """The Cityscapes subset of S1."""

    layout = "cityscapes_s1"


class CityscapesS0(Scenes):
    """The Cityscapes subset of S0 and S2."""

    layout = "cityscapes_s0"


class Gta5(Scenes):
    """GTA5, Playing for Data."""

    layout = "gta5"


class Synthia(Scenes):
    """SYNTHIA-RAND-CITYSCAPES, 16-bit labels."""

    layout = "synthia"


class Synthia8bit(Scenes):
    """SYNTHIA-RAND-CITYSCAPES with labels converted to 8 bits."""

    layout = "synthia_8bit"


class Camvid32(Scenes):
    """CamVid, 960x720, 32 colour-coded classes."""

    layout = "camvid32"


class Camvid11(Scenes):
    """CamVid, 480x360, 11 classes."""

    layout = "camvid11"


class Crosscity(Scenes):
    """NTHU CrossCity: Rio, Rome, Taipei, Tokyo."""

    layout = "crosscity"


class IddLite(Scenes):
    """IDD Lite: Indian roads, 7 classes."""

    layout = "idd_lite"


class Synth(Scenes):
    """Frames of a renderer with Cityscapes label ids."""

    layout = "synth"


BUILDERS: dict[str, type[Folders]] = {
    "folders": Folders,
    **{
        builder.layout: builder
        for builder in (CityscapesFolders, CityscapesS1, CityscapesS0, Gta5, Synthia, Synthia8bit,
                        Camvid32, Camvid11, Crosscity, IddLite, Synth)
    },
}  # fmt: skip
