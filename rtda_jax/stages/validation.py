"""Validation without target labels: scores that may choose between settings and methods.

They are computed in the same pass over the target's images as an evaluation, and on a split of the
source that was not trained on.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rtda_jax import evaluate, metrics
from rtda_jax.augment.geometry import MaskOptions, block_mask
from rtda_jax.augment.normalise import NORMALISATIONS
from rtda_jax.data import load
from rtda_jax.data.labels import class_set
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import DataError, one_of
from rtda_jax.evaluate import Model, Protocol
from rtda_jax.run import parallel
from rtda_jax.run.log import Progress


class Statistics(NamedTuple):
    """Sums over pixels from which every score below follows; they can be added over images.

    Attributes:
      pixels: N.
      entropy: sum of the pixels' entropies, in nats.
      probability: [K], sum of the softmax.
      gram: [K,K], P^T P of the matrix P [N,K] of all softmax.
    """

    pixels: int
    entropy: float
    probability: np.ndarray
    gram: np.ndarray


@jax.jit
def _sums(probabilities: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    p = probabilities.reshape(-1, probabilities.shape[-1]).astype(jnp.float32)
    entropy = jax.scipy.special.entr(p).sum()
    return entropy, p.sum(0), jnp.matmul(p.T, p, precision=jax.lax.Precision.HIGHEST)


def statistics(probabilities: jax.Array) -> Statistics:
    """Returns the statistics of one image's softmax [..., K], summed on the device."""
    entropy, probability, gram = jax.device_get(_sums(probabilities))
    pixels = int(np.prod(probabilities.shape[:-1]))
    return Statistics(
        pixels, float(entropy), probability.astype(np.float64), gram.astype(np.float64)
    )


def add(a: Statistics, b: Statistics) -> Statistics:
    """Returns the statistics of both."""
    return Statistics(*map(operator.add, a, b))


def entropy(s: Statistics) -> float:
    """Returns the mean entropy of a pixel in nats, [0, log K]; low is sure (Vu et al. 2019)."""
    return s.entropy / s.pixels


def information_maximisation(s: Statistics) -> float:
    """Returns the entropy of the mean softmax minus the mean entropy, in nats, [0, log K].

    It is high if a network is confident at each pixel and yet uses many classes (Krause et al.
    2010; Liang et al. 2020).
    """
    mean = s.probability / s.pixels
    used = mean[mean > 0]
    return float(-(used * np.log(used)).sum()) - entropy(s)


def nuclear_norm(s: Statistics) -> float:
    """Returns the nuclear norm of the softmax matrix [N,K] over its bound sqrt(N K), in (0, 1].

    It is high if predictions are both confident and diverse (Cui et al. 2020, batch nuclear-norm
    maximisation). Here it covers every pixel of the set.
    """
    eigenvalues = np.linalg.eigvalsh(s.gram)
    return float(np.sqrt(np.maximum(eigenvalues, 0)).sum() / np.sqrt(s.pixels * len(s.gram)))


# Scores that need only the target's images.
VALIDATORS = {
    "entropy": entropy,
    "information_maximisation": information_maximisation,
    "nuclear_norm": nuclear_norm,
}
# The score on images and labels of a source split that was not trained on.
SOURCE = "source_miou"
# The agreement of a network with itself when parts of the image are hidden.
MASKED = "masked_agreement"
BLOCKS = 4  # along an image's shorter side
HIDDEN = 0.5  # share of the blocks


class Observer:
    """Adds up the statistics of every softmax that it is called with."""

    def __init__(self) -> None:
        self.total: Statistics | None = None

    def __call__(self, probabilities: jax.Array) -> None:
        """Takes one image's softmax [..., K]."""
        image = statistics(probabilities)
        self.total = image if self.total is None else add(self.total, image)

    def gather(self) -> None:
        """Adds up the statistics of all processes."""
        self.total = parallel.sum_floats(self.total)


def check(names: Sequence[str]) -> None:
    """Raises ConfigError if a validator is unknown."""
    for name in names:
        one_of(name, (SOURCE, MASKED, *VALIDATORS), "name in eval.validators:")


def make_observer(names: Sequence[str]) -> Observer | None:
    """Returns the observer that these validators need during an evaluation, or None."""
    return Observer() if any(name in VALIDATORS for name in names) else None


def report(
    config: ConfigDict,
    models: Sequence[Model],
    observer: Observer | None,
    *,
    protocol: Protocol,
    heartbeat: Callable[[], object] = lambda: None,
) -> dict[str, float | int | None]:
    """Returns the scores that `eval.validators` names, by name; no target label is read.

    Args:
      config: an evaluate stage's configuration.
      models: the networks that were evaluated.
      observer: the statistics of their predictions for the target.
      protocol: that of the evaluation, so that source and target are read in the same way.
      heartbeat: called after each image.

    Returns:
      `source_miou` is the mIoU of the reported classes on the first `eval.validator_images` images
      of the benchmark's source_eval, and None if the benchmark has no such split.
      `masked_agreement` is computed on the first `eval.validator_images` images of the target.

    Raises:
      DataError: the networks' predictions are not finite.
    """
    total = None if observer is None else observer.total
    if total is not None and not np.isfinite(total.entropy):
        raise DataError("the predictions are not finite, as after a training that diverged")
    scores: dict[str, float | int | None] = {}
    for name in config.eval.validators:
        if name == SOURCE:
            scores |= _source(config, models, protocol, heartbeat)
        elif name == MASKED:
            scores[name] = _agreement(config, models, protocol, heartbeat)
        elif total is not None:
            scores[name] = VALIDATORS[name](total)
    return scores


def _source(
    config: ConfigDict, models: Sequence[Model], protocol: Protocol, heartbeat: Callable[[], object]
) -> dict[str, float | int | None]:
    benchmark = config.benchmark
    if not benchmark.source_eval:
        return {SOURCE: None}
    head, reported = class_set(benchmark.classes), class_set(benchmark.eval_classes)

    def count_share() -> tuple[np.ndarray, int]:
        examples, share, count = _first_examples(config, benchmark.source_eval)
        progress = Progress("  source validation", share)

        def count_image(*_: object) -> None:
            heartbeat()
            progress.add(1)

        confusion = evaluate.evaluate(
            models, examples, num_classes=len(head), protocol=protocol, on_prediction=count_image
        )
        progress.end()
        return confusion, count

    confusion, count = parallel.in_every_process(count_share)
    confusion = parallel.sum_counts(confusion)
    scores = evaluate.report(
        confusion, names=reported.names, rows=head.rows(reported), absent=protocol.absent
    )
    return {SOURCE: scores["miou"], "source_images": count}


def _agreement(
    config: ConfigDict, models: Sequence[Model], protocol: Protocol, heartbeat: Callable[[], object]
) -> float:
    """Returns the mean IoU, in [0,1], between predictions of the target with and without masks.

    It tests what masked consistency (MIC, Hoyer et al. 2023) trains: inferring hidden parts from
    their context. The masks depend only on the index of an image, so that all networks are compared
    under the same masks. Hidden blocks have the mean colour of the first network's input.
    """
    benchmark = config.benchmark
    classes = class_set(benchmark.classes)
    predict = evaluate.predictor(models, protocol=protocol)
    colour = mean_colour(models[0].normalisation)

    def count_share() -> np.ndarray:
        examples, share, _ = _first_examples(config, benchmark.eval)
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        progress = Progress("  masked agreement", share)
        for example in examples:
            size = example.get("label", example["image"]).shape[:2]
            hidden = hide(example["image"], index=example["index"], colour=colour)
            seen, guessed = (predict(image, size=size) for image in (example["image"], hidden))
            pairs = metrics.confusion_matrix(seen, guessed, num_classes=len(classes))
            confusion += np.asarray(pairs)
            heartbeat()
            progress.add(1)
        progress.end()
        return confusion

    confusion = parallel.sum_counts(parallel.in_every_process(count_share))
    return float(metrics.mean_iou(confusion, range(len(classes))))


def _first_examples(config: ConfigDict, spec: Any) -> tuple[Iterator[dict[str, Any]], int, int]:
    """Returns this process's share of the first `eval.validator_images` examples of a split.

    Also returns the number of examples of the share, and that of all processes.
    """
    benchmark = config.benchmark
    dataset = load(spec, data_dir=config.data_dir, classes=class_set(benchmark.classes).name)
    count = min(config.eval.validator_images or len(dataset), len(dataset))
    process, processes = parallel.process()
    share = range(process, count, processes)
    stream = eval_stream(
        dataset,
        size=tuple(benchmark.eval_size),
        resize=benchmark.resize,
        order=share,
        threads=config.threads,
    )
    return stream, len(share), count


def hide(image: np.ndarray, *, index: int, colour: np.ndarray) -> np.ndarray:
    """Returns an image uint8 [h,w,3] with random blocks, which its index selects, in one colour."""
    size = (image.shape[0], image.shape[1])
    options = MaskOptions(block=max(1, round(min(size) / BLOCKS)), ratio=HIDDEN)
    visible = block_mask(jax.random.key(0), jnp.array([index]), size=size, options=options)[0]
    return np.where(visible, image, colour)


def mean_colour(normalisation: str) -> np.ndarray:
    """Returns the colour, uint8 [3] in RGB, that a normalisation maps to zero."""
    chosen = NORMALISATIONS[normalisation]
    mean = np.zeros(3)
    mean[list(chosen.order)] = chosen.mean
    return np.rint(mean).astype(np.uint8)
