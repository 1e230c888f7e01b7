"""The tf.data side of the streams: examples by index, drawn, decoded and moved inside a graph."""

import atexit
import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rtda_jax.data import decode, geometry
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.geometry import Size, Tensor, tf
from rtda_jax.data.labels import IGNORE
from rtda_jax.data.pseudo import PseudoLabels
from rtda_jax.data.sampling import Candidates, RareClass
from rtda_jax.errors import DataError

DOMAINS = ("source", "target")
# The purposes of `seed_of`; the orders of the epochs have keys of their own, see `shuffled`. A
# change of these numbers changes the batches.
_MOVES = {"source": 2, "target": 3}
_RARE, _PASTE = 4, 5


class Examples:
    """Decoded examples of a set; the first ones are kept in memory, up to a number of bytes.

    Args:
      dataset: the data set.
      size: (H, W) that image and label are resized to; None keeps the files' size.
      resize: how images are resized, a key of `geometry.RESIZES`.
      limit: the bytes of pixels that are kept in memory; 0 keeps none.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        size: Size | None = None,
        resize: str = "bilinear",
        limit: int = 0,
    ) -> None:
        self.dataset, self.size, self.resize, self.limit = dataset, size, resize, limit
        self.cached: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.bytes = 0
        self._lock = threading.Lock()

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns image uint8 [H,W,3] and classes uint8 [H,W] ([0,0] for unlabelled sets)."""
        if i in self.cached:
            return self.cached[i]
        image, label = decode.examine(self.dataset, i)
        if label is None:
            label = np.zeros((0, 0), np.uint8)
        if self.size is not None:
            pixels = tf.constant(image)
            image = geometry.resized(pixels, self.size, resize=self.resize).numpy()
            if label.size:
                label = geometry.resized_label(tf.constant(label), self.size).numpy()
        needed = image.nbytes + label.nbytes
        with self._lock:
            if i not in self.cached and self.bytes + needed <= self.limit:
                self.cached[i] = image, label
                self.bytes += needed
        return image, label

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns image and label of an example as tensors; no label for unlabelled sets."""
        image, label = tf.numpy_function(
            lambda i: self.get(int(i)), [index], [tf.uint8, tf.uint8], stateful=False
        )
        image.set_shape([None, None, 3])
        label.set_shape([None, None])
        return image, None if self.dataset.labelling is None else label


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """How the examples of the domains are drawn and moved at each position of the stream.

    Attributes:
      seed: the seed of all draws.
      examples: the examples of each domain that is read.
      moves: the moves of each domain that is read.
      fixed_target: whether one move is drawn for all images of the target.
      border: the margins of the target's images before their moves, uint8 [H,W], 255 in them.
      pseudo_labels, rare, candidates: see `stream.train_stream`.
    """

    seed: int
    examples: Mapping[str, Examples]
    moves: Mapping[str, geometry.Moves]
    fixed_target: bool = False
    border: np.ndarray | None = None
    pseudo_labels: PseudoLabels | None = None
    rare: RareClass | None = None
    candidates: Candidates | None = None

    def example(self, position: Tensor) -> dict[str, Tensor]:
        """Returns the entries of a batch, without B, at a position of the stream."""
        batch: dict[str, Tensor] = {}
        for domain in self.examples:
            batch |= self._moved(domain, position)
        if self.candidates is not None:
            key = seed_of(self.seed, _PASTE, position)
            batch |= candidate_crops(
                self.candidates, key, moves=self.moves["source"], examples=self.examples["source"]
            )
        return batch

    def diagnose(self, position: int) -> None:
        """Decodes the files of a position one by one, so that a broken one raises by its name."""
        for domain, examples in self.examples.items():
            index = int(self._drawn(domain, tf.constant(position, tf.int64))[0])
            with decode.remedied(examples.dataset):
                decode.examine(examples.dataset, index)
            if domain == "target" and self.pseudo_labels is not None:
                self.pseudo_labels.examine(index)
        if self.candidates is not None:
            key = seed_of(self.seed, _PASTE, position)
            source = self.examples["source"].dataset
            for index in candidate_draws(self.candidates, key)[2]:
                with decode.remedied(source):
                    decode.examine(source, int(index))

    def _drawn(self, domain: str, position: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the index of an example, and the class for which it was drawn, if any."""
        if domain == "source" and self.rare is not None:
            return rare_example(self.rare, seed_of(self.seed, _RARE, position))
        count = len(self.examples[domain].dataset)
        return shuffled(position, seed=self.seed, domain=DOMAINS.index(domain), count=count), None

    def _moved(self, domain: str, position: Tensor) -> dict[str, Tensor]:
        index, shown_class = self._drawn(domain, position)
        image, label = self.examples[domain](index)
        if domain == "target" and self.pseudo_labels is not None:
            label = pseudo_label(self.pseudo_labels, index)
        fixed = domain == "target" and self.fixed_target
        key = seed_of(self.seed, _MOVES[domain], tf.zeros_like(position) if fixed else position)
        shape = tf.shape(image)[:2]
        if shown_class is not None and self.rare is not None and self.rare.crops > 1:
            move = geometry.draw_showing(
                self.moves[domain],
                key,
                shape,
                label=label,
                shown_class=shown_class,
                crops=self.rare.crops,
                pixels=self.rare.min_pixels,
            )
        else:
            move = geometry.draw(self.moves[domain], key, shape)
        batch = {f"{domain}_image": geometry.move_image(image, move)}
        if label is not None:
            batch[f"{domain}_label"] = geometry.move_label(label, move)
        if domain == "target" and self.border is not None:
            batch["target_border"] = geometry.move_label(tf.constant(self.border), move)
        return batch | {f"{domain}_index": tf.cast(index, tf.int32)}


def pseudo_label(pseudo: PseudoLabels, index: Tensor) -> Tensor:
    """Returns a pseudo-label as classes uint8 [h,w], 255 ignored, at its own size."""
    label = tf.numpy_function(lambda i: pseudo.decode(int(i)), [index], tf.uint8, stateful=False)
    label.set_shape([None, None])
    return label


def seed_of(seed: int, purpose: int, position: Tensor) -> Tensor:
    """Returns the stateless seed [2] of one purpose at one position of the stream."""
    return tf.random.experimental.stateless_fold_in(
        tf.constant([seed, purpose], tf.int64), position
    )


def shuffled(position: Tensor, *, seed: int, domain: int, count: int) -> Tensor:
    """Returns the example at a position of the endless stream: each epoch permutes 0..count-1."""
    epoch, offset = position // count, position % count
    key = tf.stack([tf.constant(seed, tf.int64), epoch * len(DOMAINS) + domain])
    return tf.random.experimental.index_shuffle(offset, seed=key, max_index=count - 1)


def rare_example(rare: RareClass, key: Tensor) -> tuple[Tensor, Tensor]:
    """Draws a class and an example that shows it from a stateless seed [2].

    Returns:
      The example's index and the class, both int64.
    """
    members, sizes = _members(rare.counts >= rare.min_pixels)
    first = np.cumsum(sizes) - sizes
    bounds = np.cumsum(rare.probabilities())
    numbers = tf.random.stateless_uniform([2], seed=key, dtype=tf.float64, alg="philox")
    # Rounding may leave the last bound below 1: the last class that occurs gets the rest.
    last = int(np.flatnonzero(sizes)[-1])
    drawn = tf.searchsorted(tf.constant(bounds), numbers[:1] * bounds[-1], side="right")[0]
    drawn = tf.minimum(drawn, last)
    size = tf.gather(tf.constant(sizes, tf.int64), drawn)
    place = _place(numbers[1], size) + tf.gather(tf.constant(first, tf.int64), drawn)
    return tf.cast(tf.gather(members, place), tf.int64), tf.cast(drawn, tf.int64)


def _members(contains: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Returns the examples of one class after the other, int32, and how many each class has.

    They are a tensor that graphs refer to. As a constant within a graph, TensorFlow would copy them
    several times, which takes minutes and gigabytes for a million examples.

    Args:
      contains: bool [N,K], whether an example contains a class.
    """
    columns = [np.flatnonzero(column).astype(np.int32) for column in contains.T]
    with tf.init_scope():
        return tf.constant(np.concatenate(columns)), contains.sum(axis=0)


def candidate_draws(candidates: Candidates, key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws the candidates of one example from a stateless seed [2].

    Returns:
      Whether there are any, bool; their classes and examples, int64 [S]; and which crop of each,
      float64 [S] in [0,1).
    """
    numbers = tf.random.stateless_uniform(
        [3 * candidates.slots + 1], seed=key, dtype=tf.float64, alg="philox"
    )
    classes = candidates.drawn
    members, sizes = _members(candidates.counts[:, classes] >= candidates.min_pixels)
    by_slot = tf.reshape(numbers[1:], [candidates.slots, 3])
    number = _place(by_slot[:, 0], tf.constant(len(classes), tf.int64))
    size = tf.gather(tf.constant(sizes, tf.int64), number)
    first = tf.constant(np.cumsum(sizes) - sizes, tf.int64)
    place = tf.gather(first, number) + _place(by_slot[:, 1], size)
    index = tf.cast(tf.gather(members, place), tf.int64)
    chosen = tf.gather(tf.constant(classes, tf.int64), number)
    return numbers[0] < candidates.probability, chosen, index, by_slot[:, 2]


def candidate_crops(
    candidates: Candidates, key: Tensor, *, moves: geometry.Moves, examples: Examples
) -> dict[str, Tensor]:
    """Returns the candidates of one example, as the keys `candidate_*` of a batch without B.

    Args:
      candidates: how candidates are drawn.
      key: stateless seed [2].
      moves: those of the source: the size that images are resized to, the filter, and the crop,
        which is within the size.
      examples: the examples of the source.
    """
    size, crop = moves.size, moves.crop
    assert size is not None and crop is not None  # `stream.check_sizes` refuses anything else
    present, classes, indices, numbers = candidate_draws(candidates, key)

    def cut(slot: int) -> tuple[Tensor, Tensor]:
        image, label = examples(indices[slot])
        image = geometry.resized(image, size, resize=moves.resize)
        label = geometry.resized_label(label, size)
        shown = tf.equal(tf.cast(label, tf.int64), classes[slot])
        y, x = visible_corner(shown, crop=crop, number=numbers[slot])
        rows, columns = slice(y, y + crop[0]), slice(x, x + crop[1])
        return image[rows, columns], label[rows, columns]

    def all_slots() -> tuple[Tensor, Tensor, Tensor]:
        pairs = [cut(slot) for slot in range(candidates.slots)]
        images, labels = (tf.stack(list(x)) for x in zip(*pairs, strict=True))
        return images, labels, tf.cast(classes, tf.uint8)

    def none() -> tuple[Tensor, Tensor, Tensor]:
        ignored = tf.constant(IGNORE, tf.uint8)
        return (
            tf.zeros([candidates.slots, *crop, 3], tf.uint8),
            tf.fill([candidates.slots, *crop], ignored),
            tf.fill([candidates.slots], ignored),
        )

    images, labels, kinds = tf.cond(present, all_slots, none)
    return {
        "candidate_images": tf.ensure_shape(images, [candidates.slots, *crop, 3]),
        "candidate_labels": tf.ensure_shape(labels, [candidates.slots, *crop]),
        "candidate_classes": tf.ensure_shape(kinds, [candidates.slots]),
    }


def visible_corner(shown: Tensor, *, crop: Size, number: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the corner (y, x), int32, of a crop with a shown pixel; of any crop if none is shown.

    Args:
      shown: bool [H,W], at least as large as the crop.
      crop: (h, w).
      number: float64 in [0,1), which of these crops.
    """
    summed = tf.pad(tf.cast(shown, tf.int32), [[1, 0], [1, 0]])
    summed = tf.cumsum(tf.cumsum(summed, axis=0), axis=1)
    h, w = crop
    height, width = tf.shape(shown)[0] - h + 1, tf.shape(shown)[1] - w + 1
    inside = summed[h:, w:] - summed[:height, w:] - summed[h:, :width] + summed[:height, :width]
    places = tf.cond(
        tf.reduce_any(inside > 0),
        lambda: tf.where(inside > 0),
        lambda: tf.where(tf.equal(inside, inside)),
    )
    picked = tf.gather(places, _place(number, tf.shape(places, out_type=tf.int64)[0]))
    y, x = tf.unstack(tf.cast(picked, tf.int32))
    return y, x


def _place(number: Tensor, count: Tensor) -> Tensor:
    """Converts a number in [0,1) to a position in 0..count-1."""
    return tf.minimum(tf.cast(number * tf.cast(count, tf.float64), tf.int64), count - 1)


def mapped(graph: Any, element: Callable[[Tensor], dict[str, Tensor]], *, threads: int) -> Any:
    """Returns the tf.data graph of `element` of each entry, in order, computed by several threads.

    The function is traced as it is: it has no control flow that depends on tensors, and AutoGraph
    would take seconds to rewrite it.
    """
    traced = tf.autograph.experimental.do_not_convert(element)
    return graph.map(traced, num_parallel_calls=threads, deterministic=True)


def arrays(graph: Any, diagnose: Any, *, start: int, threads: int) -> Iterator[dict[str, Any]]:
    """Iterates over a tf.data graph as NumPy views.

    Args:
      graph: a tf.data.Dataset of dictionaries.
      diagnose: called with the number of an element that failed; raises an error that names the
        file.
      start: the number of the first element.
      threads: the threads that decode.
    """
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    opened = _Opened(iter(graph.with_options(options)))
    _OPENED.add(opened)
    return _elements(opened, diagnose, start)


class _Opened:
    """Holds the only reference to an iterator of TensorFlow."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator


_OPENED: weakref.WeakSet[_Opened] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Closes the iterators that the traceback of an error still refers to when the program ends.

    Closing waits for threads that call Python. After the end of Python it would wait forever.
    """
    for opened in list(_OPENED):
        opened.iterator = None


def _elements(opened: _Opened, diagnose: Any, number: int) -> Iterator[dict[str, Any]]:
    while True:
        try:
            element = next(opened.iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            diagnose(number)
            raise DataError(f"the data of step {number} cannot be read: {error.message}") from None
        yield {name: np.asarray(memoryview(value)) for name, value in element.items()}
        number += 1
