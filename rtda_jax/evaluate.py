"""Evaluation at the labels' own resolution: one confusion matrix over the whole set."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rtda_jax import metrics
from rtda_jax.augment.normalise import normalise
from rtda_jax.errors import ConfigError, one_of, require
from rtda_jax.models.fold import fold_or_keep
from rtda_jax.ops.activations import argmax
from rtda_jax.ops.resize import ALIGNMENTS, upsample
from rtda_jax.run import log
from rtda_jax.run.signals import compiling_first

Size = tuple[int, int]
Predict = Callable[..., jax.Array]

MODES = ("whole", "slide")
OUTPUTS = ("logits", "coarse")

# Fusions of several networks: functions of their logits [M,B,h,w,K].
FUSIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,  # multi-band transfer (FDA, Nikiforos)
    "logits": lambda stacked: stacked,  # the ensemble of ADVENT
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an image is read, and how its prediction is resized to the labels' resolution.

    Attributes:
      mode: "whole" reads an image at once, "slide" reads it in overlapping windows.
      window: (height, width) of the windows of "slide".
      stride: between windows.
      scales: the scales at which "slide" reads an image. TUFL: (0.5, 0.75, 1.0, 1.25, 1.5, 1.75).
      mirror: whether "slide" reads every window mirrored as well.
      align: the alignment of all resizes, "half_pixel" or "corners" (PyTorch's align_corners:
        AdaptSegNet, TUFL).
      output: what is resized to the labels' resolution: "logits", which have the image's size, or
        "coarse", the smaller map from which a DeepLab computes them, as in the evaluations of
        AdaptSegNet, ADVENT and FDA; only mode "whole" supports "coarse".
      fusion: the fusion of several networks, a key of `FUSIONS`.
      absent: what a class without any pixel adds to the mean IoU, a key of
        `rtda_jax.metrics.ABSENT`.
    """

    mode: str = "whole"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    align: str = "half_pixel"
    output: str = "logits"
    fusion: str = "softmax"
    absent: str = "left_out"

    def __post_init__(self) -> None:
        one_of(self.mode, MODES, "eval.mode")
        one_of(self.align, ALIGNMENTS, "eval.align")
        one_of(self.output, OUTPUTS, "eval.output")
        one_of(self.fusion, FUSIONS, "eval.fusion")
        one_of(self.absent, metrics.ABSENT, "eval.absent")
        if self.mode == "whole":
            require(
                not self.mirror and self.scales == (1.0,),
                "eval.scales and eval.mirror are read by eval.mode='slide' only",
            )
            return
        require(
            self.output == "logits" and self.fusion == "softmax",
            "eval.output='coarse' and eval.fusion='logits' are read by eval.mode='whole' only: "
            "windows add up softmax at the image's size",
        )
        if self.window is None or self.stride is None:
            raise ConfigError("eval.mode='slide' needs eval.window and eval.stride")
        for name, sides in (("window", self.window), ("stride", self.stride)):
            valid = len(sides) == 2 and min(sides) >= 1
            require(valid, f"eval.{name} must be (height, width) in pixels, got {sides}")
        require(
            all(s <= w for s, w in zip(self.stride, self.window, strict=True)),
            f"evaluation windows {self.window} at strides {self.stride} leave pixels unseen",
        )
        require(
            self.scales and all(np.isfinite(s) and s > 0 for s in self.scales),
            f"eval.scales must be above 0, got {self.scales}",
        )


class Model(NamedTuple):
    """A trained network: the module, its variables and the normalisation of its input."""

    module: nn.Module
    variables: Any
    normalisation: str


def evaluate(
    models: Sequence[Model],
    examples: Iterable[dict],
    *,
    num_classes: int,
    protocol: Protocol = Protocol(),
    on_prediction: Callable[[int, dict, np.ndarray], None] | None = None,
    on_softmax: Callable[[jax.Array], None] | None = None,
) -> np.ndarray:
    """Returns the confusion matrix int64 [K,K] of one network, or of the fusion of several.

    Args:
      models: one network, or several to fuse (multi-band transfer of FDA).
      examples: dicts of `image` uint8 [h,w,3] and `label` uint8 [H,W]. An example without a label
        is predicted at the size of its image and not counted.
      num_classes: K.
      protocol: how images are read.
      on_prediction: called with (index, example, prediction uint8 [H,W]) for each image.
      on_softmax: called with the softmax [1,h,w,K] of each image, at the resolution of the output.
    """
    predict = compiling_first(predictor(models, protocol=protocol, on_softmax=on_softmax))
    count = jax.jit(functools.partial(metrics.confusion_matrix, num_classes=num_classes))
    total = np.zeros((num_classes, num_classes), np.int64)
    for index, example in enumerate(examples):
        size = example.get("label", example["image"]).shape[:2]
        prediction = predict(example["image"], size=size)
        if "label" in example:
            total += np.asarray(count(example["label"], prediction), np.int64)
        if on_prediction is not None:
            on_prediction(index, example, np.asarray(prediction))
    return total


def predictor(
    models: Sequence[Model],
    *,
    protocol: Protocol = Protocol(),
    on_softmax: Callable[[jax.Array], None] | None = None,
) -> Predict:
    """Returns a function (image uint8 [h,w,3], *, size) -> classes uint8 [H,W] at `size`.

    Before the argmax, the logits of a single network are upsampled, or the mean softmax or mean
    logits of several networks (`protocol.fusion`). Mode "slide" adds up softmax over windows,
    scales and mirrored copies (`slide`). This function also folds batch normalisations into the
    convolutions, once.

    Args:
      models: one network, or several to fuse.
      protocol: how images are read.
      on_softmax: called with the softmax [1,h,w,K] of each image.
    """
    models = folded(models)
    if protocol.mode == "slide":
        return _sliding(models, protocol, on_softmax)
    return _whole(models, protocol, on_softmax)


def folded(models: Sequence[Model]) -> list[Model]:
    """Returns the networks without batch normalisations: they compute the same, and faster."""
    return [
        Model(*fold_or_keep(m.module, m.variables, say=log.say), m.normalisation) for m in models
    ]


def outputs_of(models: Sequence[Model], variables: Sequence[Any], images: jax.Array) -> list[Any]:
    """Returns each network's outputs, given its variables, for images [B,h,w,3] in [0,255]."""
    return [
        model.module.apply(v, normalise(images, name=model.normalisation), train=False)
        for model, v in zip(models, variables, strict=True)
    ]


def class_scores(
    models: Sequence[Model],
    variables: Sequence[Any],
    images: jax.Array,
    *,
    protocol: Protocol = Protocol(),
) -> jax.Array:
    """Returns the logits of one network, or the fusion of several, [B,h,w,K].

    Args:
      models: the networks; their own variables are not used.
      variables: the variables of each model.
      images: [B,h,w,3] in [0,255].
      protocol: `output` and `fusion` are read.

    Raises:
      ConfigError: a network does not have the output.
    """
    stacked = []
    for model, outputs in zip(models, outputs_of(models, variables, images), strict=True):
        one_of(protocol.output, outputs, f"eval.output of {type(model.module).__name__}:")
        stacked.append(outputs[protocol.output].astype(jnp.float32))
    if len(models) == 1:
        return stacked[0]
    return jnp.mean(FUSIONS[protocol.fusion](jnp.stack(stacked)), axis=0)


def _whole(
    models: Sequence[Model], protocol: Protocol, on_softmax: Callable[[jax.Array], None] | None
) -> Predict:
    variables = [model.variables for model in models]
    # The resize is compiled separately, so that the network is compiled once for all output sizes.
    read = jax.jit(functools.partial(class_scores, models, protocol=protocol))
    softmax = jax.jit(jax.nn.softmax)
    sums_to_one = len(models) > 1 and protocol.fusion == "softmax"

    @jax.jit
    def same_size(variables: Sequence[Any], image: jax.Array) -> jax.Array:
        score = class_scores(models, variables, image[None], protocol=protocol)
        return decide(score, size=(image.shape[0], image.shape[1]), align=protocol.align)

    def predict(image: np.ndarray, *, size: Size) -> jax.Array:
        if on_softmax is None and tuple(size) == image.shape[:2]:
            return same_size(variables, image)
        score = read(variables, image[None])
        if on_softmax is not None:
            on_softmax(score if sums_to_one else softmax(score))
        return decide(score, size=tuple(size), align=protocol.align)

    return predict


def _sliding(
    models: Sequence[Model], protocol: Protocol, on_softmax: Callable[[jax.Array], None] | None
) -> Predict:
    def predict(image: np.ndarray, *, size: Size) -> jax.Array:
        pixels = jnp.asarray(image, jnp.float32)[None]
        summed = jnp.float32(0)
        for model in models:
            read = functools.partial(_probabilities, model.module, model.variables)
            images = normalise(pixels, name=model.normalisation)
            summed = summed + slide(read, images, size=size, protocol=protocol)
        if on_softmax is not None:
            on_softmax(summed / summed.sum(-1, keepdims=True))
        return decide(summed, size=tuple(size), align=protocol.align)

    return predict


@functools.partial(jax.jit, static_argnames=("size", "align"))
def decide(score: jax.Array, *, size: Size, align: str) -> jax.Array:
    """Returns the class of the highest score, uint8 [H,W] at `size`, of scores [1,h,w,K]."""
    full = score if score.shape[1:3] == size else upsample(score, size=size, align=align)
    return argmax(full)[0]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(module: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    outputs: Any = module.apply(variables, images, train=False)
    return jax.nn.softmax(outputs["logits"].astype(jnp.float32), axis=-1)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where the windows along one side begin; the last window ends at the edge."""
    if window > length:
        raise ValueError(f"evaluation window {window} is larger than the image side {length}")
    count = 1 + math.ceil((length - window) / stride)
    return [min(i * stride, length - window) for i in range(count)]


def slide(
    predict: Callable[[jax.Array], jax.Array], image: jax.Array, *, size: Size, protocol: Protocol
) -> jax.Array:
    """Returns sums of softmax over windows, scales and mirrored copies, float32 [1,H,W,K].

    At each scale the image is resized, padded with zeros where it is smaller than the window, and
    read in overlapping windows whose probabilities are added up; the sum is resized to `size`.
    Both resizes are bilinear. A pixel counts once for every window that covers it, as in TUFL's
    code.

    Args:
      predict: from normalised images [1,h,w,3] of the window's size to probabilities [1,h,w,K].
      image: normalised, [1,H,W,3].
      size: the size of the result, that of the labels.
      protocol: window, stride, scales, mirror and align.
    """
    if protocol.window is None or protocol.stride is None:
        raise ValueError("sliding needs a window and a stride")
    window, stride, align = protocol.window, protocol.stride, protocol.align
    chips = jax.ShapeDtypeStruct((1, *window, 3), image.dtype)
    classes = jax.eval_shape(predict, chips).shape[-1]
    total = jnp.float32(0)
    for scale in protocol.scales:
        height, width = (max(1, int(side * scale)) for side in image.shape[1:3])
        shape = height, width
        padded, (top, left) = _resize_and_pad(image, shape=shape, window=window, align=align)
        summed = jnp.zeros((*padded.shape[:3], classes), jnp.float32)
        for y, x in itertools.product(
            starts(padded.shape[1], window[0], stride[0]),
            starts(padded.shape[2], window[1], stride[1]),
        ):
            chip = _cut(padded, y, x, window=window)
            score = predict(chip)
            if protocol.mirror:
                score = score + predict(chip[:, :, ::-1])[:, :, ::-1]
            summed = _add(summed, score, y, x)
        total = total + _uncover(summed, top, left, shape=shape, size=size, align=align)
    return total


def _resize_and_pad(
    image: jax.Array, *, shape: Size, window: Size, align: str
) -> tuple[jax.Array, Size]:
    """Resizes an image, pads it with zeros to the window, and returns it and where it begins."""
    short = [max(w - s, 0) for w, s in zip(window, shape, strict=True)]
    before = (short[0] // 2, short[1] // 2)
    return _padded(image, shape=shape, pads=(tuple(short), before), align=align), before


@functools.partial(jax.jit, static_argnames=("shape", "pads", "align"))
def _padded(image: jax.Array, *, shape: Size, pads: tuple[Size, Size], align: str) -> jax.Array:
    resized = upsample(image.astype(jnp.float32), size=shape, align=align)
    sides = [(b, s - b) for s, b in zip(*pads, strict=True)]
    return jnp.pad(resized, [(0, 0), *sides, (0, 0)])


@functools.partial(jax.jit, static_argnames="window")
def _cut(image: jax.Array, y: int, x: int, *, window: Size) -> jax.Array:
    return lax.dynamic_slice(image, (0, y, x, 0), (1, *window, image.shape[-1]))


@functools.partial(jax.jit, donate_argnums=0)
def _add(summed: jax.Array, score: jax.Array, y: int, x: int) -> jax.Array:
    before = lax.dynamic_slice(summed, (0, y, x, 0), score.shape)
    return lax.dynamic_update_slice(summed, before + score, (0, y, x, 0))


@functools.partial(jax.jit, static_argnames=("shape", "size", "align"))
def _uncover(
    summed: jax.Array, top: int, left: int, *, shape: Size, size: Size, align: str
) -> jax.Array:
    """Returns the part of the sum without its padding, resized to `size`."""
    inside = lax.dynamic_slice(summed, (0, top, left, 0), (1, *shape, summed.shape[-1]))
    return upsample(inside, size=size, align=align)


def report(
    confusion: np.ndarray,
    *,
    names: Sequence[str],
    rows: Sequence[int],
    absent: str = "left_out",
) -> dict[str, Any]:
    """Returns the entry of results.json for a confusion matrix; null where a class is absent.

    Args:
      confusion: [K,K] over the head's classes.
      names: the names of the reported classes.
      rows: their positions among the head's classes. A pixel of a reported class that the network
        assigns to any other class still counts as wrong.
      absent: a key of `rtda_jax.metrics.ABSENT`.
    """
    iou = metrics.iou_per_class(confusion)[list(rows)]
    return {
        "miou": _or_none(metrics.mean_iou(confusion, rows, absent=absent)),
        "pixel_accuracy": _or_none(metrics.pixel_accuracy(confusion, rows)),
        "iou": {name: _or_none(v) for name, v in zip(names, iou, strict=True)},
        "pixels": int(np.asarray(confusion)[list(rows)].sum()),
    }


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def percent(share: float | None) -> str:
    """Returns a share in per cent with one decimal; n/a if there is none."""
    return "n/a" if share is None else f"{100 * share:.1f}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns per-class IoU, mIoU and pixel accuracy of several evaluations, side by side."""
    columns = list(results)
    classes = list(dict.fromkeys(name for c in columns for name in results[c]["iou"]))
    left = max(len(name) for name in [*classes, "pixel accuracy"])
    widths = [max(len(column), 6) for column in columns]

    def row(name: str, values: Sequence[float | None]) -> str:
        cells = (f"{percent(value):>{w}}" for value, w in zip(values, widths, strict=True))
        return f"{name:<{left}}  " + "  ".join(cells)

    header = f"{'IoU, %':<{left}}  " + "  ".join(
        f"{column:>{w}}" for column, w in zip(columns, widths, strict=True)
    )
    rule = "-" * len(header)
    body = [row(name, [results[c]["iou"].get(name) for c in columns]) for name in classes]
    means = row("mIoU", [results[c]["miou"] for c in columns])
    accuracy = row("pixel accuracy", [results[c]["pixel_accuracy"] for c in columns])
    return "\n".join([header, rule, *body, rule, means, accuracy])
