"""The paired training stream and the evaluation stream: functions of (seed, step)."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtda_jax.data import candidates as paste
from rtda_jax.data import decode, geometry, graph
from rtda_jax.data.cache import Cache
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.lazy_tf import tensorflow
from rtda_jax.data.pseudo import PseudoLabels

if TYPE_CHECKING:
    from rtda_jax.data.candidates import Candidates
    from rtda_jax.data.sampling import RareClass

Tensor = Any
Size = tuple[int, int]

_FOREVER = np.iinfo(np.int64).max
_DOMAINS = ("source", "target")
_MOVES, _RARE, _PASTE = 2, 4, 5  # which random numbers of a position; 0 and 1 are the orders


def train_stream(
    source: Dataset,
    target: Dataset | None = None,
    *,
    pseudo: PseudoLabels | None = None,
    seed: int,
    start_step: int = 0,
    batch_size: int,
    size: Size | None = None,
    crop: Size | None = None,
    flip: bool = False,
    scale: tuple[float, float] = (1.0, 1.0),
    rare: "RareClass | None" = None,
    candidates: "Candidates | None" = None,
    target_moves: str = "each",
    cache_bytes: int = 0,
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
      pseudo: what a network takes the target's images for, moved as they are.
      seed, start_step: the first batch is that of step `start_step`, counted from 0.
      batch_size: images per domain over all processes.
      size: (H, W) before the crop; None keeps the files' size.
      crop: (h, w) of the batch; None is the whole image.
      rare: draw source examples by the classes they contain instead of by epochs.
      candidates: further source crops, for long-tail class pasting.
      target_moves: "each" image of the target by numbers of its own, or "once" all of the run by
        the same ones (as S4's released code does).
      cache_bytes: of decoded images each domain may keep in memory, 0: none.
      threads: of decoding; None is one per core.
      prefetch: batches held ready; with `threads` it bounds the memory.
      process_index, process_count: this process yields its share of every batch.

    Yields:
      source_image uint8 [B,h,w,3], source_label uint8 [B,h,w] (classes, 255 ignored),
      target_image uint8 [B,h,w,3], source_index and target_index int32 [B]; with `pseudo` also
      target_label uint8 [B,h,w]; with `candidates` also candidate_images uint8 [B,S,h,w,3],
      candidate_labels uint8 [B,S,h,w] and candidate_classes uint8 [B,S].

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
    if pseudo is not None and (target is None or tuple(target.keys) != pseudo.keys):
        raise DataError(f"{pseudo.folder}: pseudo-labels of other images than the target's")
    if rare is not None and rare.counts.shape != (len(source), len(source.classes)):
        raise DataError(
            f"{source.name}: class counts are {rare.counts.shape}, expected "
            f"{(len(source), len(source.classes))}"
        )
    if target_moves not in ("each", "once"):
        raise DataError(f"target_moves must be each or once, got {target_moves!r}")
    if candidates is not None:
        paste.check_sizes(size, crop)
    share = batch_size // process_count
    threads = threads or os.cpu_count() or 1
    # Images are zoomed from the files' size when the zoom is random, and else kept at `size`.
    kept = size if scale == (1.0, 1.0) else None
    caches = {
        domain: Cache(dataset, size=kept, limit=cache_bytes) if cache_bytes else None
        for domain, dataset in sets.items()
    }

    def index_of(domain: str, position: Tensor) -> Tensor:
        number = _DOMAINS.index(domain)
        if domain == "source" and rare is not None:
            return rare.draw(_key(seed, _RARE, position))
        return draw(position, seed=seed, domain=number, count=len(sets[domain]))

    def source_example(index: Tensor) -> tuple[Tensor, Tensor]:
        return graph.decoded(source, index, size=None, cache=caches["source"])

    def example(count: Tensor) -> dict[str, Tensor]:
        position = (count // share) * batch_size + process_index * share + count % share
        out = {}
        for number, (domain, dataset) in enumerate(sets.items()):
            index = index_of(domain, position)
            image, label = graph.decoded(dataset, index, size=None, cache=caches[domain])
            if domain == "target" and pseudo is not None:
                label = graph.pseudo_label(pseudo, index)
            fixed = domain == "target" and target_moves == "once"
            where = _key(seed, _MOVES + number, tf.zeros_like(position) if fixed else position)
            image, label = geometry.move(
                image, label, where, size=size, crop=crop, flip=flip, scale=scale
            )
            out[f"{domain}_image"] = image
            if label is not None:
                out[f"{domain}_label"] = label
            out[f"{domain}_index"] = tf.cast(index, tf.int32)
        if candidates is not None:
            key = _key(seed, _PASTE, position)
            kept_size, kept_crop = paste.check_sizes(size, crop)
            out |= paste.stacked(
                candidates, key, size=kept_size, crop=kept_crop, decoded=source_example
            )
        return out

    stream = tf.data.Dataset.range(start_step * share, _FOREVER)
    stream = stream.map(example, num_parallel_calls=threads, deterministic=True)
    stream = stream.batch(share, drop_remainder=True).prefetch(prefetch)

    def diagnose(step: int) -> None:
        base = step * batch_size + process_index * share
        for position in range(base, base + share):
            for domain, dataset in sets.items():
                index = int(index_of(domain, tf.constant(position, tf.int64)))
                decode.examine(dataset, index)
                if domain == "target" and pseudo is not None:
                    pseudo.examine(index)
            if candidates is not None:
                for index in candidates.draw(_key(seed, _PASTE, position))[2]:
                    decode.examine(source, int(index))

    return graph.iterate(stream, diagnose, start=start_step, threads=threads)


def eval_stream(
    dataset: Dataset,
    *,
    size: Size | None = None,
    order: Sequence[int] | None = None,
    threads: int | None = None,
    prefetch: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, Any]]:
    """Every example once, in order, one at a time; or those of `order`.

    Yields:
      image uint8 [h,w,3] resized to `size` (None: as it is), label uint8 [H,W] in classes at the
      labels' own resolution (absent from unlabelled sets), key, index.

    Raises:
      DataError: naming the file that can not be read.
    """
    tf = tensorflow()
    threads = threads or os.cpu_count() or 1
    chosen = np.asarray(range(len(dataset)) if order is None else order, np.int64)
    chosen = chosen[process_index::process_count]

    def example(index: Tensor) -> dict[str, Tensor]:
        image, label = graph.decoded(dataset, index, size=size)
        out = {"image": image, "index": index}
        return out if label is None else {**out, "label": label}

    stream = tf.data.Dataset.from_tensor_slices(chosen)
    stream = stream.map(example, num_parallel_calls=threads, deterministic=True)
    stream = stream.prefetch(prefetch)

    def diagnose(number: int) -> None:
        decode.examine(dataset, int(chosen[number]))

    for out in graph.iterate(stream, diagnose, start=0, threads=threads):
        index = int(out["index"])
        yield {**out, "index": index, "key": dataset.keys[index]}


def draw(position: Tensor, *, seed: int, domain: int, count: int) -> Tensor:
    """The example at a position of the endless stream: each epoch permutes 0..count-1."""
    tf = tensorflow()
    epoch, offset = position // count, position % count
    key = tf.stack([tf.constant(seed, tf.int64), epoch * len(_DOMAINS) + domain])
    return tf.random.experimental.index_shuffle(offset, seed=key, max_index=count - 1)


def _key(seed: int, purpose: int, position: Tensor) -> Tensor:
    """A stateless seed [2] for one purpose at one position of the stream."""
    tf = tensorflow()
    return tf.random.experimental.stateless_fold_in(
        tf.constant([seed, purpose], tf.int64), position
    )
