"""Predictions of a trained network on images, folders of them, and videos."""

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rtda_jax import checkpoint, evaluate, interrupt, pictures, records
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import inputs, networks, video
from rtda_jax.deploy.inputs import Input
from rtda_jax.deploy.overlap import ahead, behind
from rtda_jax.deploy.results import Picture, Results
from rtda_jax.deploy.views import VIEWS, Key
from rtda_jax.errors import ConfigError, Interrupted, lookup

AHEAD = 4  # pictures that wait in front of the network, and as many behind it
MULTIPLE = 32  # native sizes are padded to it: the coarsest stride of the networks
SAY_EVERY, REPEAT_FOR = 5.0, 1.0  # seconds


Prepared = tuple[np.ndarray, tuple[int, int]]


def at_eval_size(pixels: np.ndarray, config: ConfigDict) -> Prepared:
    """The image resized as evaluation does it; its classes are decided at its own size."""
    return inputs.resized(pixels, tuple(config.benchmark.eval_size)), pixels.shape[:2]


def at_native_size(pixels: np.ndarray, config: ConfigDict) -> Prepared:
    """The image padded to what the network and its window need, and that size."""
    least = tuple(config.eval.window) if config.eval.mode == "slide" else (MULTIPLE, MULTIPLE)
    padded = inputs.padded(pixels, multiple=MULTIPLE, least=least)
    return padded, padded.shape[:2]


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
      Interrupted: SIGTERM or SIGINT arrived; what is written is whole.
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
    results = Results(out, shown, key)
    pictures.save(_legend(key), out / "legend.png")
    predict = evaluate.predictor(
        chosen.models,
        mode=chosen.config.eval.mode,
        window=tuple(chosen.config.eval.window),
        stride=tuple(chosen.config.eval.stride),
    )

    def classify(picture: Picture) -> Any:
        return predict(picture.read, size=picture.size)

    clock = _Clock(len(files))
    failed = {}
    pixels_of = _pictures(files, lambda pixels: prepare(pixels, chosen.config))
    example: Picture | None = None
    with interrupt.watch() as asked, behind(results.write, depth=AHEAD) as put:
        for picture in ahead(pixels_of, depth=AHEAD):
            if asked.is_set():
                raise Interrupted(f"stopped after {clock.pictures} pictures, which are in {out}")
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


def _pictures(files: list[Input], prepare: Callable[[np.ndarray], Prepared]) -> Iterator[Picture]:
    for file in files:
        try:
            if file.is_video:
                for number, frame in enumerate(video.read(file.path)):
                    pixels = frame.pixels
                    yield Picture(file, pixels, *prepare(pixels), frame, number)
                yield Picture(file, last=True)
            else:
                pixels = inputs.read_image(file.path)
                yield Picture(file, pixels, *prepare(pixels), last=True)
        except DataError as error:
            yield Picture(file, problem=str(error), last=True)


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
