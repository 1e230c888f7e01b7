"""The base of our TFDS builders: examples made by worker processes, in parts, then sharded."""

import io
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from rtda_jax.data import parts
from rtda_jax.data.worker import Maker


class Parted(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """A builder whose examples are made in parallel, in parts that survive an interruption."""

    VERSION = tfds.core.Version("1.0.0")
    code_path: ClassVar = None  # of checksum files, which we have none of

    def __init__(self, *, workers: int | None = None, **kwargs: Any) -> None:
        self.workers = workers
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
        """Make the parts, then hand their examples to TFDS."""
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
