"""The teacher: a second set of the student's variables that labels the target's images.

The student is the segmentation network, or the large network that is trained beside it. A teacher
is a moving average of the student (Tarvainen and Valpola 2017), or it is frozen. Its predictions
for a target image become pseudo-labels with a weight for each pixel; mixed and masked views are
trained on them, and distil terms learn its probabilities. Where the code of DACS, DAFormer and MIC
differs from their texts, an option offers both.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rtda_jax.adapt.state import NetworkSpec, TrainState
from rtda_jax.errors import one_of, require
from rtda_jax.losses import Sum

TEACHERS = ("none", "ema", "frozen")
FOLLOWS = ("after", "before")


def _with_running_statistics(
    generator: nn.Module, variables: Any, images: jax.Array
) -> tuple[jax.Array, Any]:
    outputs: Any = generator.apply(variables, images, train=False)
    return outputs["logits"], variables


def _with_batch_statistics(
    generator: nn.Module, variables: Any, images: jax.Array
) -> tuple[jax.Array, Any]:
    outputs, updated = generator.apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs["logits"], {**variables, **updated}


# The statistics that the teacher's normalisations use: functions (generator, variables, images
# [B,H,W,3]) -> logits [B,H,W,K] and the variables after the forward pass.
FORWARD_PASSES: dict[str, Callable[[nn.Module, Any, jax.Array], tuple[jax.Array, Any]]] = {
    "running": _with_running_statistics,
    # The code of DACS, DAFormer and MIC: the teacher is in training mode.
    "batch": _with_batch_statistics,
}


# The variables that follow the student: functions (average, previous teacher) -> the new teacher.
AVERAGES: dict[str, Callable[[Any, Any], Any]] = {
    "all": lambda averaged, teacher: averaged,
    "parameters": lambda averaged, teacher: {**averaged, "batch_stats": teacher["batch_stats"]},
}


def _share_of_the_batch(share: jax.Array, axis_name: str | None) -> jax.Array:
    mean = share.mean(keepdims=True)
    everywhere = mean if axis_name is None else lax.pmean(mean, axis_name)
    return jnp.broadcast_to(everywhere, share.shape)


# The images over which the share of confident pixels is taken: functions (share of each image [B],
# axis_name) -> float32 [B].
SHARES: dict[str, Callable[[jax.Array, str | None], jax.Array]] = {
    "image": lambda share, axis_name: share,  # French et al. 2020
    "batch": _share_of_the_batch,  # the code of DACS, DAFormer and MIC; over all devices
}


@dataclasses.dataclass(frozen=True)
class TeacherOptions:
    """The section `teacher` of a configuration.

    Attributes:
      kind: "none", "ema" (a moving average of the student) or "frozen" (the initial network).
      decay: the weight of the old teacher in one update of "ema", in [0, 1).
      average: the variables that "ema" averages, a key of `AVERAGES`. With statistics="batch", the
        teacher's forward passes on the target move its running statistics; with "all", the average
        moves them too.
      follows: when "ema" is updated: "after" the student's step (the code of DACS), or "before" the
        teacher labels (the code of DAFormer and MIC).
      statistics: the statistics that its normalisations use, a key of `FORWARD_PASSES`.
      temperature: T of its soft labels, which distil terms read.
      inconsistency: by how much distil terms prefer classes on which student and teacher disagree,
        see `distil_weights`; 0 weighs all classes alike.
      threshold: the teacher is sure of a pixel if its probability is at least this.
      share: the images over which the share of sure pixels is taken, a key of `SHARES`. This share
        is the weight of every pseudo-label.
      borders: the rows or columns at the top, bottom, left and right of a target crop that get no
        pseudo-label; DAFormer leaves out 15 and 120 rows of 512. The field target_margins does so
        for the borders of the whole image, wherever the crop is.
    """

    kind: str = "none"
    decay: float = 0.99
    average: str = "all"
    follows: str = "after"
    statistics: str = "running"
    temperature: float = 1.0
    inconsistency: float = 0.0
    threshold: float = 0.968
    share: str = "image"
    borders: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        one_of(self.kind, TEACHERS, "teacher.kind")
        require(0 <= self.decay < 1, f"teacher.decay must lie in [0, 1), got {self.decay:g}")
        one_of(self.average, AVERAGES, "teacher.average")
        one_of(self.follows, FOLLOWS, "teacher.follows")
        one_of(self.statistics, FORWARD_PASSES, "teacher.statistics")
        require(
            self.average == "all" or self.statistics == "batch",
            "teacher.average='parameters' leaves the running statistics to the teacher's own "
            "forward passes: it needs teacher.statistics='batch'",
        )
        require(
            self.temperature > 0,
            f"teacher.temperature must be above 0, got {self.temperature:g}",
        )
        require(
            self.inconsistency >= 0,
            f"teacher.inconsistency must be at least 0, got {self.inconsistency:g}",
        )
        require(
            0 < self.threshold < 1,
            f"teacher.threshold must be a probability within (0, 1), got {self.threshold:g}",
        )
        one_of(self.share, SHARES, "teacher.share")
        require(
            min(self.borders) >= 0,
            f"teacher.borders must be numbers of pixels from 0, got {self.borders}",
        )

    def check_borders(self, size: tuple[int, int]) -> None:
        """Refuses borders that leave no pixel of a crop (H, W) to label.

        Raises:
          ConfigError: names the fields.
        """
        top, bottom, left, right = self.borders
        require(
            top + bottom < size[0] and left + right < size[1],
            f"teacher.borders={self.borders} leave nothing of benchmark.crop={size}",
        )


def follow(teacher: Any, student: Any, step: jax.Array, *, options: TeacherOptions) -> Any:
    """Returns the teacher after its update by the student.

    The decay of an "ema" teacher is min(1 - 1/(t+1), decay) at step t = 0, 1, ... (DACS), so that
    it begins as a copy of the student. Other teachers do not change.
    """
    if options.kind != "ema":
        return teacher
    stays = jnp.minimum(1 - 1 / (step + 1), options.decay).astype(jnp.float32)
    average = jax.tree.map(lambda old, new: stays * old + (1 - stays) * new, teacher, student)
    return AVERAGES[options.average](average, teacher)


def label(
    generator: nn.Module,
    teacher: Any,
    images: jax.Array,
    *,
    options: TeacherOptions,
    unlabelled: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[dict[str, jax.Array], dict[str, Sum], Any]:
    """Labels target images.

    Args:
      generator: the segmentation network.
      teacher: the teacher's variables.
      images: float [B,H,W,3], normalised.
      options: the options of the teacher.
      unlabelled: uint8 [B,H,W], not 0 where a pixel gets no pseudo-label, or None. It comes from
        `target_margins`.
      axis_name: the device axis, for teacher.share="batch".

    Returns:
      - what the views read: "teacher_label" uint8 [B,H,W], the most probable class, and
        "teacher_weight" float32 [B,H,W], the share of sure pixels, 0 where there is no label,
        "teacher_labelled" bool [B,H,W], True where there is a label, and "teacher_logits"
        [B,H,W,K];
      - what to log: "teacher_sure", the share of pixels that the teacher is sure of, and
        "teacher_classes", over how many classes the labels of an image spread;
      - the teacher after the forward pass.
    """
    logits, teacher = FORWARD_PASSES[options.statistics](generator, teacher, images)
    probabilities = lax.stop_gradient(jax.nn.softmax(logits, axis=-1))
    share = confidence(probabilities, threshold=options.threshold)
    weight = SHARES[options.share](share, axis_name)[:, None, None]
    labelled = jnp.ones(images.shape[:3], bool)
    if any(options.borders):
        height, width = images.shape[1:3]
        labelled &= inside(height, width, options.borders)[None]
    if unlabelled is not None:
        labelled &= unlabelled == 0
    weight = jnp.where(labelled, weight, 0.0)
    labels = probabilities.argmax(axis=-1).astype(jnp.uint8)
    count = jnp.float32(len(images))
    logs = {
        "teacher_sure": Sum(share.sum(), count),
        "teacher_classes": Sum(spread(labels, num_classes=logits.shape[-1]).sum(), count),
    }
    seen = {
        "teacher_label": labels,
        "teacher_weight": weight,
        "teacher_labelled": labelled,
        "teacher_logits": logits,
    }
    return seen, logs, teacher


def spread(labels: jax.Array, *, num_classes: int) -> jax.Array:
    """Returns over how many classes the labels [B,H,W] of each image spread, float32 [B].

    It is the exponential of the entropy of the classes' shares, and 1 if there is only one class.
    """
    pixels = labels.shape[1] * labels.shape[2]
    count = jax.vmap(lambda image: jnp.bincount(image.ravel(), length=num_classes))
    shares = count(labels).astype(jnp.float32) / pixels
    return jnp.exp(jax.scipy.special.entr(shares).sum(-1))


def confidence(probabilities: jax.Array, *, threshold: float = 0.968) -> jax.Array:
    """Returns the share of each image's pixels whose top probability reaches the threshold.

    Input [B,H,W,K], output float32 [B].
    """
    sure = probabilities.max(axis=-1) >= threshold
    return sure.mean(axis=(1, 2), dtype=jnp.float32)


def inside(height: int, width: int, borders: tuple[int, int, int, int]) -> jax.Array:
    """Returns which pixels lie within the borders (top, bottom, left, right), bool [H,W]."""
    top, bottom, left, right = borders
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    within = (rows >= top) & (rows < height - bottom)
    return within & (columns >= left) & (columns < width - right)


def disagreement(logits: jax.Array, taught: jax.Array, *, temperature: float) -> jax.Array:
    """Computes T^2 KL(softmax(taught / T) || softmax(logits / T)) of each pixel, in nats.

    The factor T^2 makes the size of the gradient independent of T (Hinton, Vinyals & Dean,
    Distilling the knowledge in a neural network, 2015). No gradient reaches `taught`.

    Args:
      logits: float [B,H,W,K] of the student.
      taught: float [B,H,W,K] of the teacher.
      temperature: T, above 0; a higher one lets the teacher's less likely classes count for more.

    Returns:
      float32 [B,H,W], at least 0.
    """
    log_q = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    log_p = jax.nn.log_softmax(lax.stop_gradient(taught).astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def agreement(
    logits: jax.Array, labels: jax.Array, labelled: jax.Array, *, num_classes: int
) -> Sum:
    """Counts the pixels on which student and teacher agree, by class.

    Args:
      logits: float [B,H,W,K] of the student.
      labels: uint8 [B,H,W], the teacher's most probable class.
      labelled: bool [B,H,W], where pixels count.
      num_classes: K.

    Returns:
      float32 [2,K], for each class the pixels that both assign to it and those that at least one of
      them does, with the number of all pixels that count.
    """
    one_hot = functools.partial(jax.nn.one_hot, num_classes=num_classes, dtype=bool)
    count = labelled[..., None]
    ours, theirs = one_hot(logits.argmax(axis=-1)) & count, one_hot(labels) & count
    areas = [area.sum(axis=(0, 1, 2), dtype=jnp.float32) for area in (ours & theirs, ours | theirs)]
    return Sum(jnp.stack(areas), labelled.sum(dtype=jnp.float32))


def inconsistency(areas: jax.Array) -> jax.Array:
    """Returns how much student and teacher disagree on each class, float32 [K] in [0,1].

    It is 1 - IoU of their predictions, from the areas [2,K] that `agreement` counts, and 1 for a
    class that neither has predicted.
    """
    both, either = areas
    return 1 - both / jnp.maximum(either, jnp.finfo(jnp.float32).tiny)


def distil_weights(areas: jax.Array, *, strength: float) -> jax.Array:
    """Returns the weights 1 + strength * `inconsistency` of the classes, float32 [K].

    DUDA (Kang et al., arXiv 2504.09814) gives classes on which the large and the small network
    disagree more weight. This formula is our own, not the paper's.
    """
    return 1 + strength * inconsistency(areas)


def with_teacher(
    state: TrainState, options: TeacherOptions, *, network: NetworkSpec | None
) -> TrainState:
    """Returns the state with a teacher that equals its student, if the method has a teacher.

    A teacher from an earlier stage has the shapes of its `network`; its values are read later.
    """
    if options.kind == "none":
        return state
    if network is not None:
        return state.replace(teacher=network.zeros())
    # A copy, because the step donates the buffers of its state, and each only once.
    return state.replace(teacher=jax.tree.map(jnp.copy, state.followed))
