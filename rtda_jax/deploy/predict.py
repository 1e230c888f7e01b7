"""Predictions of a trained network on images, folders of them, and videos."""

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rtda_jax import checkpoint, evaluate, pictures, records
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import inputs, networks, video
from rtda_jax.deploy.inputs import Input
from rtda_jax.deploy.overlap import ahead, behind
from rtda_jax.deploy.views import VIEWS, Key
from rtda_jax.errors import ConfigError, lookup

AHEAD = 4  # pictures that wait in front of the network, and as many behind it
MULTIPLE = 32  # native sizes are padded to it: the coarsest stride of the networks
SAY_EVERY, REPEAT_FOR = 5.0, 1.0  # seconds


class Picture(NamedTuple):
    """One image or frame: its own pixels, what the network reads, and what it says of the file.

    A file that can not be read has a problem instead of pixels; `last` marks a file's end.
    """

    file: Input
    pixels: np.ndarray | None = None
    read: np.ndarray | None = None
    frame: video.Frame | None = None
    number: int = 0
    problem: str = ""
    last: bool = False


def at_eval_size(pixels: np.ndarray, config: ConfigDict) -> np.ndarray:
    """The image resized as evaluation does it."""
    return inputs.resized(pixels, tuple(config.benchmark.eval_size))


def at_native_size(pixels: np.ndarray, config: ConfigDict) -> np.ndarray:
    """The image at its own size, padded to what the network and its window need."""
    least = tuple(config.eval.window) if config.eval.mode == "slide" else (MULTIPLE, MULTIPLE)
    return inputs.padded(pixels, multiple=MULTIPLE, least=least)


RESOLUTIONS = {"eval": at_eval_size, "native": at_native_size}


def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    stage: str | None,
    source: pathlib.Path,
    out: pathlib.Path,
    views: Sequence[str],
    resolution: str,
) -> dict[str, Any]:
    """Predict every picture of a file or folder; what can not be read is named at the end.

    Writes OUT/VIEW/NAME.png, for a video OUT/VIEW/NAME.mp4 (train_ids: a folder of PNGs), all at
    the size of the input, and OUT/legend.png and OUT/predict.json, which is returned.

    Args:
      config, workdir, stage: see networks.choose.
      source: an image, a video or a folder.
      out: folder, made if need be.
      views: keys of VIEWS.
      resolution: key of RESOLUTIONS: what the network reads.

    Raises:
      ConfigError: unknown names, an untrained stage, a video without PyAV.
      DataError: naming the files that could not be read, after all others are done.
    """
    try:
        shown = {view: lookup(VIEWS, view, "view") for view in views}
        prepare = lookup(RESOLUTIONS, resolution, "resolution")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    files = inputs.find(source, without=out)
    if any(file.is_video for file in files):
        video.library()
    chosen = networks.choose(config, workdir, stage=stage)
    records.say(f"{chosen.stage}: {' + '.join(chosen.names)} of {workdir} on {len(files)} files")
    classes = class_set(chosen.config.benchmark.classes)
    key = Key(classes.names, classes.colours)
    sink = _Sink(out, shown, key)
    pictures.save(_legend(key), out / "legend.png")
    predict = evaluate.predictor(
        chosen.models,
        mode=chosen.config.eval.mode,
        window=tuple(chosen.config.eval.window),
        stride=tuple(chosen.config.eval.stride),
    )

    def classify(picture: Picture) -> Any:
        assert picture.pixels is not None
        assert picture.read is not None
        own = picture.pixels.shape[:2]
        return predict(picture.read, size=own if resolution == "eval" else picture.read.shape[:2])

    clock = _Clock(len(files))
    failed = {}
    pixels_of = _pictures(files, lambda pixels: prepare(pixels, chosen.config))
    example: Picture | None = None
    with behind(sink.write, depth=AHEAD) as put:
        for picture in ahead(pixels_of, depth=AHEAD):
            if picture.problem:
                records.say(f"  {picture.problem}")
                failed[str(picture.file.path)] = picture.problem
            if picture.pixels is None:
                put((picture, None))
            else:
                put((picture, classify(picture)))
                example = picture
            clock.tick(picture)
    clock.stop()
    rates = {
        "with_io": clock.rate(),
        "network_only": _rate(classify, example) if example is not None else None,
    }
    record = {
        "workdir": str(workdir),
        "stage": chosen.stage,
        "models": list(chosen.names),
        "classes": list(classes.names),
        "resolution": resolution,
        "views": list(views),
        "files": len(files),
        "pictures": clock.pictures,
        "failed": failed,
        "pictures_per_second": rates,
    }
    checkpoint.write_json(out / "predict.json", record)
    records.say(
        f"{clock.pictures} pictures in {out}; a second: {_number(rates['with_io'])} with reading "
        f"and writing (after the first), {_number(rates['network_only'])} without"
    )
    if failed:
        raise DataError(
            f"{len(failed)} of {len(files)} files could not be predicted whole; the others are "
            "done:\n" + "\n".join(f"  {problem}" for problem in failed.values())
        )
    return record


def _pictures(files: list[Input], prepare: Callable[[np.ndarray], np.ndarray]) -> Iterator[Picture]:
    for file in files:
        try:
            if file.is_video:
                for number, frame in enumerate(video.read(file.path)):
                    pixels = frame.pixels
                    yield Picture(file, pixels, prepare(pixels), frame, number)
                yield Picture(file, last=True)
            else:
                pixels = inputs.read_image(file.path)
                yield Picture(file, pixels, prepare(pixels), last=True)
        except DataError as error:
            yield Picture(file, problem=str(error), last=True)


class _Sink:
    """Writes the views of pictures; used by one thread."""

    def __init__(self, out: pathlib.Path, views: dict[str, Callable], key: Key) -> None:
        self._out, self._views, self._key = out, views, key
        self._videos: dict[str, video.Writer] = {}

    def write(self, item: tuple[Picture, Any]) -> None:
        """Every view of a picture and its classes; DataError where the disk refuses."""
        picture, classes = item
        try:
            if picture.pixels is not None:
                height, width = picture.pixels.shape[:2]
                self._write(picture, picture.pixels, np.asarray(classes)[:height, :width])
            if picture.last:
                for writer in self._videos.values():
                    writer.close()
                self._videos.clear()
        except OSError as error:
            raise DataError(f"{error.filename or self._out}: {error.strerror or error}") from None

    def _write(self, picture: Picture, pixels: np.ndarray, classes: np.ndarray) -> None:
        for view, show in self._views.items():
            name = self._out / view / picture.file.name
            shown = show(pixels, classes, self._key)
            if picture.frame is None:
                pictures.save(Image.fromarray(shown), name.with_name(name.name + ".png"))
            elif shown.ndim == 2:  # a lossy video would change classes
                pictures.save(Image.fromarray(shown), name / f"{picture.number:06d}.png")
            else:
                if view not in self._videos:
                    self._videos[view] = video.Writer(name.with_name(name.name + ".mp4"))
                self._videos[view].write(shown, picture.frame)


class _Clock:
    """Counts pictures, says every few seconds how far it is."""

    def __init__(self, files: int) -> None:
        self.pictures = self._done = 0
        self._files, self._first, self._said = files, 0.0, time.perf_counter()
        self._now = 0.0

    def tick(self, picture: Picture) -> None:
        self.pictures += picture.pixels is not None
        self._done += picture.last
        self._now = time.perf_counter()
        if self.pictures == 1:  # it compiles the network
            self._first = self._now
        if self._now - self._said > SAY_EVERY:
            self._said = self._now
            frame = f", frame {picture.number}" if picture.frame else ""
            records.say(
                f"  file {min(self._done + 1, self._files)}/{self._files}{frame}   "
                f"{_number(self.rate())} pictures a second"
            )

    def stop(self) -> None:
        """The last result is written."""
        self._now = time.perf_counter()

    def rate(self) -> float | None:
        """Pictures a second from the first one to the newest; None for fewer than two."""
        passed = self._now - self._first
        return (self.pictures - 1) / passed if self.pictures > 1 and passed > 0 else None


def _rate(classify: Callable[[Picture], Any], picture: Picture) -> float:
    """Pictures a second when nothing is read or written, measured on one picture."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < REPEAT_FOR:
        np.asarray(classify(picture))
        count += 1
    return count / (time.perf_counter() - begin)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _legend(key: Key) -> Image.Image:
    return pictures.legend(names=key.names, colours=np.asarray(key.colours, np.uint8), width=640)
