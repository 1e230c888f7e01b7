"""Predicts the classes of images, folders of them and videos with the networks of a workdir."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rtda_jax import evaluate
from rtda_jax.data import pictures
from rtda_jax.data.labels import ClassSet, class_set
from rtda_jax.data.listing import sentences
from rtda_jax.deploy import Networks, media, video
from rtda_jax.deploy.media import Input, Key, Picture
from rtda_jax.errors import ConfigError, DataError, Interrupted, lookup, require
from rtda_jax.evaluate import Protocol
from rtda_jax.run import log, signals
from rtda_jax.run.log import Progress, counted
from rtda_jax.run.options import read
from rtda_jax.run.workdir import claimed, write_json
from rtda_jax.tools import drawing

DEPTH = 4  # pictures that may wait for the network, and as many that may wait to be written
MULTIPLE = 32  # native sizes are padded to a multiple of this, the coarsest stride of the networks
REPEAT_FOR = 1.0  # seconds, to measure the network alone
REPORT_EVERY = 10.0  # seconds, of a stream

T = TypeVar("T")
Prepared = tuple[np.ndarray, tuple[int, int]]  # the network's input, and the size of the answer


def padded(pixels: np.ndarray, *, multiple: int) -> np.ndarray:
    """Repeats the edge of uint8 [H,W,3] below and to the right, up to a multiple of the sides."""
    below, right = (-side % multiple for side in pixels.shape[:2])
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")


def at_eval_size(pixels: np.ndarray, config: ConfigDict) -> Prepared:
    """Resizes an image as in evaluation; the answer has the image's own size."""
    benchmark = config.benchmark
    read = pictures.resized(pixels, tuple(benchmark.eval_size), resize=benchmark.resize)
    return read, pixels.shape[:2]


def at_native_size(pixels: np.ndarray, config: ConfigDict) -> Prepared:
    """Keeps an image at its own size; pads it for the network if it is read as a whole."""
    if config.eval.mode == "slide":
        return pixels, pixels.shape[:2]
    whole = padded(pixels, multiple=MULTIPLE)
    return whole, whole.shape[:2]


RESOLUTIONS = {"eval": at_eval_size, "native": at_native_size}


def run(
    choose: Callable[[], Networks],
    *,
    source: str | pathlib.Path,
    out: pathlib.Path,
    views: Sequence[str],
    resolution: str,
) -> dict[str, Any]:
    """Predicts every picture of the input, and finally names the files that could not be read.

    Writes OUT/VIEW/NAME.png, for a video OUT/VIEW/NAME.mp4 (train_ids and label_ids: a folder of
    PNGs), all at the size of the input, and OUT/legend.png and OUT/predict.json, which is returned.
    A further recording of a camera or a stream is called NAME-2, NAME-3 and so on.

    Args:
      choose: loads the networks, see networks.choose; called once the input has been found.
      source: an image, a video, a folder, the number of a camera or the URL of a stream.
      out: the folder; created if it does not exist.
      views: keys of media.VIEWS.
      resolution: key of RESOLUTIONS: the size at which the network reads images.

    Raises:
      ConfigError: a name is unknown, there is no view, a class has no label id of its own to show,
        PyAV is missing for a video, or the folder has files of these names that no earlier
        prediction wrote.
      DataError: names the files that could not be read, after all others are done.
      Interrupted: SIGTERM or SIGINT arrived; the files written so far are complete. For a camera or
        a stream, this is the normal end of the recording and not an error.
    """
    require(views, f"--view names nothing to write; known: {', '.join(media.VIEWS)}")
    shown = {view: lookup(media.VIEWS, view, "view") for view in views}
    prepare = lookup(RESOLUTIONS, resolution, "resolution")
    listing = media.find(str(source), out=out)
    items = media.distinct(listing.inputs, views)
    live = items[0].kind == "stream"
    if live:
        items = [media.unrecorded(items[0], out=out)]
    if any(item.kind != "image" for item in items):
        video.pyav()
    chosen = choose()
    protocol = read(Protocol, chosen.config.eval, "eval")
    classes = class_set(chosen.config.benchmark.classes)
    ids = _label_ids(classes) if "label_ids" in views else ()
    key = Key(classes.names, classes.colours, ids)
    predict = evaluate.predictor(chosen.models, protocol=protocol)
    inputs_of = counted(len(items), "stream" if live else "file")
    log.say(f"{chosen.stage}: {' + '.join(chosen.names)} of {chosen.workdir} on {inputs_of}")
    left_out = sentences(listing.left_out)
    for sentence in left_out:
        log.say(f"  {sentence}")
    files = [file for item in items for file in media.files_of(item, views)]
    with claimed(out, record=media.RECORD, results=["legend.png", *files]) as begin:
        listed = begin()
        drawing.save(Image.fromarray(media.legend(key, 640)), out / "legend.png")

        def classify(picture: Picture) -> Any:
            return predict(picture.read, size=picture.size)

        with media.Writer(out, views=shown, key=key) as writer:
            stream = _pictures(items, lambda pixels: prepare(pixels, chosen.config))
            if live:
                begun = f"{out / files[0]} can be watched while it grows; Ctrl-C ends the recording"
                tally = _record(stream, classify, writer, items[0], begun=begun)
            else:
                total = sum(_length(item) for item in items)
                tally = _predict(stream, classify, writer, total=total, out=out)
        rates = {
            "with_io": tally.rate,
            "network_only": _rate(classify, tally.example) if tally.example else None,
        }
        record = {
            "workdir": str(chosen.workdir),
            "stage": chosen.stage,
            "models": list(chosen.names),
            "classes": list(classes.names),
            "resolution": resolution,
            "views": list(views),
            "files": len(items),
            "pictures": tally.count,
            "failed": tally.failed,
            "left_out": list(left_out),
            "pictures_per_second": rates,
            # A file that could not be read has no results, unless earlier ones are still there.
            "results": [name for name in listed if name == media.RECORD or (out / name).exists()],
        }
        write_json(out / media.RECORD, record)
    log.say(f"{counted(tally.count, 'picture')} in {out}{_speeds(**rates)}")
    if tally.failed:
        others = "; the others are done" if len(tally.failed) < len(items) else ""
        raise DataError(
            f"{len(tally.failed)} of {inputs_of} could not be predicted whole{others}:\n"
            + "\n".join(f"  {why}" for why in tally.failed.values())
        )
    return record


@dataclasses.dataclass(frozen=True)
class Tally:
    """The outcome of a prediction.

    Attributes:
      count: the number of pictures.
      failed: source -> why it could not be read completely.
      rate: pictures per second with reading and writing, after the first; None for one picture.
      example: a picture to measure the network with.
    """

    count: int
    failed: dict[str, str]
    rate: float | None
    example: Picture | None


def _predict(
    stream: Iterable[Picture],
    classify: Callable[[Picture], Any],
    writer: media.Writer,
    *,
    total: int,
    out: pathlib.Path,
) -> Tally:
    """Classifies and writes the pictures of files."""
    failed: dict[str, str] = {}
    count, first, example = 0, 0.0, None
    progress = Progress("  pictures", total)
    with signals.shutdown_event() as stop, behind(writer.write, depth=DEPTH) as put:
        for picture in ahead(stream, depth=DEPTH):
            sentence = f"stopped after {counted(count, 'picture')}, in {out}"
            if stop.is_set():
                raise Interrupted(sentence)
            classes = None
            if picture.problem:
                log.say(f"  {picture.problem}")
                failed[picture.item.source] = picture.problem
            elif picture.pixels is not None and not count:
                work = functools.partial(classify, picture)
                classes = signals.compiling(work, stop=stop, sentence=sentence)
                first = time.perf_counter()
            elif picture.pixels is not None:
                classes = classify(picture)
            put((picture, classes))
            if classes is not None:
                count, example = count + 1, picture
            if picture.problem or classes is not None:
                progress.add(1)
    progress.end()
    seconds = time.perf_counter() - first
    return Tally(count, failed, (count - 1) / seconds if count > 1 else None, example)


def _record(
    stream: Iterable[Picture],
    classify: Callable[[Picture], Any],
    writer: media.Writer,
    item: Input,
    *,
    begun: str,
) -> Tally:
    """Classifies and writes the frames of a camera or a URL, until it ends or a signal arrives.

    It prints the sentence `begun` after the first frame, when the camera is known to answer.
    """
    failed: dict[str, str] = {}
    count, first, reported, example = 0, 0.0, time.perf_counter(), None
    with signals.shutdown_event() as stop, behind(writer.write, depth=1) as put:
        for picture in ahead(stream, depth=1):
            if stop.is_set():
                break
            if picture.problem:
                failed[item.source] = picture.problem
            if picture.pixels is None:
                continue
            put((picture, classify(picture)))
            if not count:
                log.say(f"  {begun}")
            count, example = count + 1, picture
            now = time.perf_counter()
            first = first or now
            if now - reported > REPORT_EVERY:
                reported = now
                log.say(f"  {counted(count, 'frame')}, {(count - 1) / (now - first):.1f} a second")
        put((Picture(item, last=True), None))
    seconds = time.perf_counter() - first
    return Tally(count, failed, (count - 1) / seconds if count > 1 else None, example)


def _pictures(
    items: Iterable[Input], prepare: Callable[[np.ndarray], Prepared]
) -> Iterator[Picture]:
    """Yields the images and frames of all inputs, and the problems of those that fail."""
    for item in items:
        try:
            if item.kind == "image":
                pixels = pictures.read(item.source)
                yield Picture(item, pixels, *prepare(pixels), last=True)
                continue
            live = item.kind == "stream"
            frames = video.stream(item.source) if live else video.read(pathlib.Path(item.source))
            for number, frame in enumerate(frames):
                yield Picture(item, frame.pixels, *prepare(frame.pixels), frame, number)
            yield Picture(item, last=True)
        except DataError as error:
            yield Picture(item, problem=str(error), last=True)


def _label_ids(classes: ClassSet) -> tuple[int, ...]:
    try:
        return tuple(classes.label_ids().tolist())
    except DataError as error:  # of the classes, not of a file
        raise ConfigError(f"--view=label_ids: {error}; the view train_ids needs no ids") from None


def _length(item: Input) -> int:
    return video.length(pathlib.Path(item.source)) if item.kind == "video" else 1


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
    """Yields a function that passes items to a thread, which writes them in order.

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
    """Measures pictures per second without reading and writing, on one picture."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < REPEAT_FOR:
        np.asarray(classify(picture))
        count += 1
    return count / (time.perf_counter() - begin)


def _speeds(with_io: float | None, network_only: float | None) -> str:
    """Returns the rest of a sentence with the rates that were measured."""
    rates = {"with reading and writing": with_io, "in the network alone": network_only}
    measured = [f"{rate:.1f} a second {where}" for where, rate in rates.items() if rate is not None]
    return "".join(f"; {rate}" for rate in measured)
