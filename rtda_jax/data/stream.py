"""The paired training stream and the evaluation stream: functions of (seed, step)."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE, OUTSIDE
from rtda_jax.data.lazy_tf import tensorflow

Tensor = Any
Size = tuple[int, int]

_FOREVER = np.iinfo(np.int64).max
_DOMAINS = ("source", "target")


def train_stream(
    source: Dataset,
    target: Dataset | None = None,
    *,
    seed: int,
    start_step: int = 0,
    batch_size: int,
    size: Size | None = None,
    crop: Size | None = None,
    flip: bool = False,
    scale: tuple[float, float] = (1.0, 1.0),
    threads: int | None = None,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches; the batch of step n depends on (seed, n) alone, never on the threads.

    Every epoch is a permutation of the set; both domains draw independently. Image and label
    move together: resize to `size` times a random factor in `scale` (bilinear with antialiasing,
    labels nearest), random `crop` (padded with 0 and IGNORE where the image is smaller), mirrored
    half of the time if `flip`.

    Args:
      source: labelled set.
      target: its images only; its labels are never opened.
      seed, start_step: the first batch is that of step `start_step`, counted from 0.
      batch_size: images per domain over all processes.
      size: (H, W) before the crop; None keeps the files' size.
      crop: (h, w) of the batch; None is the whole image.
      threads: of decoding; None is one per core.
      prefetch: batches held ready; with `threads` it bounds the memory.
      process_index, process_count: this process yields its share of every batch.

    Yields:
      source_image uint8 [B,h,w,3], source_label uint8 [B,h,w] (classes, 255 ignored),
      target_image uint8 [B,h,w,3], source_index and target_index int32 [B].

    Raises:
      DataError: at once for sets or arguments that can not be used; while iterating for the file
        that broke the batch.
    """
    tf = tensorflow()
    if source.labelling is None:
        raise DataError(f"{source.name}: has no labels to train on")
    if batch_size % process_count:
        raise DataError(f"batch_size {batch_size} is not divisible by {process_count} processes")
    if size is None and crop is None and scale != (1.0, 1.0):
        raise DataError("a random scale needs a crop: images of one batch must have one size")
    sets = (
        {"source": source} if target is None else {"source": source, "target": target.unlabelled()}
    )
    for dataset in sets.values():
        if not len(dataset):
            raise DataError(f"{dataset.name}: no examples")
    share = batch_size // process_count
    threads = threads or os.cpu_count() or 1

    def example(count: Tensor) -> dict[str, Tensor]:
        position = (count // share) * batch_size + process_index * share + count % share
        out = {}
        for number, (domain, dataset) in enumerate(sets.items()):
            index = draw(position, seed=seed, domain=number, count=len(dataset))
            image, label = _decoded(dataset, index, size=None)
            where = tf.random.experimental.stateless_fold_in(
                tf.constant([seed, len(_DOMAINS) + number], tf.int64), position
            )
            image, label = _geometry(
                image, label, where, size=size, crop=crop, flip=flip, scale=scale
            )
            out[f"{domain}_image"] = image
            if label is not None:
                out[f"{domain}_label"] = label
            out[f"{domain}_index"] = tf.cast(index, tf.int32)
        return out

    stream = tf.data.Dataset.range(start_step * share, _FOREVER)
    stream = stream.map(example, num_parallel_calls=threads, deterministic=True)
    stream = stream.batch(share, drop_remainder=True).prefetch(prefetch)

    def diagnose(step: int) -> None:
        base = step * batch_size + process_index * share
        for position in range(base, base + share):
            for number, dataset in enumerate(sets.values()):
                index = draw(
                    tf.constant(position, tf.int64), seed=seed, domain=number, count=len(dataset)
                )
                decode.examine(dataset, int(index))

    return _iterate(stream, diagnose, start=start_step, threads=threads)


def eval_stream(
    dataset: Dataset,
    *,
    size: Size | None = None,
    threads: int | None = None,
    prefetch: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, Any]]:
    """Every example once, in order, one at a time.

    Yields:
      image uint8 [h,w,3] resized to `size` (None: as it is), label uint8 [H,W] in classes at the
      labels' own resolution (absent from unlabelled sets), key, index.

    Raises:
      DataError: naming the file that can not be read.
    """
    tf = tensorflow()
    threads = threads or os.cpu_count() or 1

    def example(index: Tensor) -> dict[str, Tensor]:
        image, label = _decoded(dataset, index, size=size)
        out = {"image": image, "index": index}
        return out if label is None else {**out, "label": label}

    stream = tf.data.Dataset.range(process_index, len(dataset), process_count)
    stream = stream.map(example, num_parallel_calls=threads, deterministic=True)
    stream = stream.prefetch(prefetch)

    def diagnose(number: int) -> None:
        decode.examine(dataset, process_index + number * process_count)

    for out in _iterate(stream, diagnose, start=0, threads=threads):
        index = int(out["index"])
        yield {**out, "index": index, "key": dataset.keys[index]}


def draw(position: Tensor, *, seed: int, domain: int, count: int) -> Tensor:
    """The example at a position of the endless stream: each epoch permutes 0..count-1."""
    tf = tensorflow()
    epoch, offset = position // count, position % count
    key = tf.stack([tf.constant(seed, tf.int64), epoch * len(_DOMAINS) + domain])
    return tf.random.experimental.index_shuffle(offset, seed=key, max_index=count - 1)


def _decoded(dataset: Dataset, index: Tensor, *, size: Size | None) -> tuple[Tensor, Tensor | None]:
    """Image, resized if `size` is given, and label in classes at its own resolution."""
    tf = tensorflow()

    def read(i: np.ndarray) -> tuple[bytes, bytes, np.uint8, np.bool_]:
        encoded = dataset.read(int(i))
        lenient = np.bool_(dataset.keys[int(i)] in dataset.lenient)
        return encoded.image, encoded.label or b"", np.uint8(encoded.step), lenient

    data, label_data, step, lenient = tf.numpy_function(
        read, [index], [tf.string, tf.string, tf.uint8, tf.bool], stateful=False
    )
    image = decode.image(data)
    if size is not None:
        image = decode.resized(image, size)
    if dataset.labelling is None:
        return image, None
    raw = decode.raw_label(label_data, step, labelling=dataset.labelling)
    label = decode.mapped(raw, dataset.classes.lut(dataset.labelling))
    outside = label == OUTSIDE
    check = tf.debugging.Assert(lenient | ~tf.reduce_any(outside), ["label outside its table"])
    with tf.control_dependencies([check]):
        return image, tf.where(outside, tf.constant(IGNORE, tf.uint8), label)


def _geometry(
    image: Tensor,
    label: Tensor | None,
    key: Tensor,
    *,
    size: Size | None,
    crop: Size | None,
    flip: bool,
    scale: tuple[float, float],
) -> tuple[Tensor, Tensor | None]:
    """Resize, crop and mirror image and label by one and the same random numbers."""
    tf = tensorflow()
    numbers = tf.random.stateless_uniform([4], seed=key, alg="philox")
    shape = tf.shape(image)[:2] if size is None else tf.constant(size)
    if scale != (1.0, 1.0):
        factor = scale[0] + (scale[1] - scale[0]) * numbers[0]
        shape = tf.maximum(tf.cast(tf.round(tf.cast(shape, tf.float32) * factor), tf.int32), 1)
    image = decode.resized(image, shape)
    label = None if label is None else decode.resized_label(label, shape)
    if crop is not None:
        room = tf.maximum(shape - crop, 0)
        start = tf.cast(tf.floor(numbers[1:3] * tf.cast(room + 1, tf.float32)), tf.int32)
        start = tf.minimum(start, room)
        short = tf.maximum(crop - shape, 0)
        image = image[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]]
        image = tf.pad(image, [[0, short[0]], [0, short[1]], [0, 0]])
        image = tf.ensure_shape(image, [*crop, 3])
        if label is not None:
            label = label[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]]
            label = tf.pad(label, [[0, short[0]], [0, short[1]]], constant_values=IGNORE)
            label = tf.ensure_shape(label, crop)
    elif size is not None and scale == (1.0, 1.0):
        image = tf.ensure_shape(image, [*size, 3])
    if flip:
        mirrored = numbers[3] < 0.5
        image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
        if label is not None:
            label = tf.cond(mirrored, lambda: label[:, ::-1], lambda: label)
    return image, label


def _iterate(stream: Any, diagnose: Any, *, start: int, threads: int) -> Iterator[dict[str, Any]]:
    tf = tensorflow()
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    return _arrays(iter(stream.with_options(options)), diagnose, start)


def _arrays(iterator: Any, diagnose: Any, step: int) -> Iterator[dict[str, Any]]:
    """Batches as NumPy views; a failure of the graph becomes the DataError of its file."""
    tf = tensorflow()
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            diagnose(step)
            raise DataError(f"the data of step {step} can not be read: {error.message}") from None
        yield {name: np.asarray(memoryview(value)) for name, value in batch.items()}
        step += 1
