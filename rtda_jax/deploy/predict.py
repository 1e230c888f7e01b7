"""Predicts the classes of images, folders of them and videos with the networks of a workdir."""

import collections
import contextlib
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rtda_jax import evaluate
from rtda_jax.adapt.options import read
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import inputs, networks, results, video
from rtda_jax.deploy.inputs import Input
from rtda_jax.deploy.results import Key, Picture
from rtda_jax.errors import DataError, Interrupted, lookup, printable
from rtda_jax.evaluate import Protocol
from rtda_jax.run import log, signals
from rtda_jax.run.log import Progress
from rtda_jax.run.workdir import write_json
from rtda_jax.tools import drawing

DEPTH = 4  # pictures that wait in front of the network, and as many behind it
MULTIPLE = 32  # native sizes are padded to it: the coarsest stride of the networks
REPEAT_FOR = 1.0  # seconds, to measure the network alone

T = TypeVar("T")
Prepared = tuple[np.ndarray, tuple[int, int]]  # what the network reads, and the answer's size


def at_eval_size(pixels: np.ndarray, config: ConfigDict) -> Prepared:
    """Resizes an image as evaluation does; its classes are decided at its own size."""
    return inputs.resized(pixels, tuple(config.benchmark.eval_size)), pixels.shape[:2]


def at_native_size(pixels: np.ndarray, config: ConfigDict) -> Prepared:
    """Leaves an image at its own size; read whole, it is padded to what the network needs."""
    if config.eval.mode == "slide":
        return pixels, pixels.shape[:2]
    padded = inputs.padded(pixels, multiple=MULTIPLE)
    return padded, padded.shape[:2]


RESOLUTIONS = {"eval": at_eval_size, "native": at_native_size}


def run(
    chosen: networks.Networks,
    *,
    source: pathlib.Path,
    out: pathlib.Path,
    views: Sequence[str],
    resolution: str,
) -> dict[str, Any]:
    """Predicts every picture of a file or folder and names at the end what could not be read.

    Writes OUT/VIEW/NAME.png, for a video OUT/VIEW/NAME.mp4 (train_ids: a folder of PNGs), all at
    the size of the input, and OUT/legend.png and OUT/predict.json, which is returned.

    Args:
      chosen: what networks.choose returned.
      source: an image, a video or a folder.
      out: folder, created where it does not exist.
      views: keys of results.VIEWS.
      resolution: key of RESOLUTIONS: what the network reads.

    Raises:
      ConfigError: unknown names, or a video without PyAV.
      DataError: naming the files that could not be read, after all others are done.
      Interrupted: SIGTERM or SIGINT arrived; the files written so far are complete.
    """
    shown = {view: lookup(results.VIEWS, view, "view") for view in views}
    prepare = lookup(RESOLUTIONS, resolution, "resolution")
    protocol = read(Protocol, chosen.config.eval, "eval")
    predict = evaluate.predictor(chosen.models, protocol=protocol)
    files, left_out = inputs.find(source, without=out)
    for sentence in left_out:
        log.say(f"  {printable(sentence, limit=None)}")
    if any(file.is_video for file in files):
        video.pyav()
    log.say(f"{chosen.stage}: {' + '.join(chosen.names)} of {chosen.workdir} on {len(files)} files")
    classes = class_set(chosen.config.benchmark.classes)
    key = Key(classes.names, classes.colours)
    drawing.save(Image.fromarray(results.legend(key, 640)), out / "legend.png")

    def classify(picture: Picture) -> Any:
        return predict(picture.read, size=picture.size)

    failed: dict[str, str] = {}
    count, first, example = 0, 0.0, None
    writer = results.Writer(out, views=shown, key=key)
    stream = _pictures(files, lambda pixels: prepare(pixels, chosen.config))
    total = sum(video.length(f.path) if f.is_video else 1 for f in files)
    progress = Progress("  pictures", total)
    with signals.shutdown_event() as stop, behind(writer.write, depth=DEPTH) as put:
        for picture in ahead(stream, depth=DEPTH):
            if stop.is_set():
                raise Interrupted(f"stopped after {count} pictures, which are in {out}")
            if picture.problem:
                log.say(f"  {picture.problem}")
                failed[str(picture.file.path)] = picture.problem
                progress.add(1)
            if picture.pixels is None:
                put((picture, None))
                continue
            put((picture, classify(picture)))
            count, example = count + 1, picture
            progress.add(1)
            if count == 1:  # the network is compiled
                first = time.perf_counter()
    seconds = time.perf_counter() - first
    progress.end()
    rates = {
        "with_io": (count - 1) / seconds if count > 1 else None,
        "network_only": _rate(classify, example) if example is not None else None,
    }
    record = {
        "workdir": str(chosen.workdir),
        "stage": chosen.stage,
        "models": list(chosen.names),
        "classes": list(classes.names),
        "resolution": resolution,
        "views": list(views),
        "files": len(files),
        "pictures": count,
        "failed": failed,
        "left_out": list(left_out),
        "pictures_per_second": rates,
    }
    write_json(out / "predict.json", record)
    log.say(
        f"{count} pictures in {out}; a second: {_number(rates['with_io'])} with reading "
        f"and writing (after the first), {_number(rates['network_only'])} without"
    )
    if failed:
        raise DataError(
            f"{len(failed)} of {len(files)} files could not be predicted whole; the others are "
            "done:\n" + "\n".join(f"  {problem}" for problem in failed.values())
        )
    return record


def _pictures(files: list[Input], prepare: Callable[[np.ndarray], Prepared]) -> Iterator[Picture]:
    """Yields the images and frames of all files, and the problems of those that cannot be read."""
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


def ahead(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """Yields the items in order; a thread computes at most `depth` of them in advance."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        running: collections.deque[Future] = collections.deque()
        for _ in range(depth):
            running.append(pool.submit(next, iterator, end))
        while (item := running.popleft().result()) is not end:
            running.append(pool.submit(next, iterator, end))
            yield item


@contextlib.contextmanager
def behind(write: Callable[[T], None], *, depth: int) -> Iterator[Callable[[T], None]]:
    """Returns a function that passes items to a thread, which writes them in order.

    The function waits while `depth` items are unwritten. An error of `write` is raised by a later
    call, or at the end of the context.
    """
    running: collections.deque[Future] = collections.deque()

    def put(item: T) -> None:
        if len(running) >= depth:
            running.popleft().result()
        running.append(pool.submit(write, item))

    with ThreadPoolExecutor(1) as pool:
        yield put
        while running:
            running.popleft().result()


def _rate(classify: Callable[[Picture], Any], picture: Picture) -> float:
    """Measures pictures a second without reading and writing, on one picture."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < REPEAT_FOR:
        np.asarray(classify(picture))
        count += 1
    return count / (time.perf_counter() - begin)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
