"""Consistency: a strong view should agree with confident predictions on a weak view (TUFL).

This is the unsupervised focal loss. Per pixel, let p be the softmax of the weak view's logits, q
that of the strong view's, p' = p without gradient and k = argmax p':

  loss = sum_c w_c [ p'_c (ln p'_c - d^gamma ln q_c) - p_c ln p_c ]

Its value is the focal cross-entropy -d^gamma sum_c w_c p'_c ln q_c, because the other terms cancel.
Its gradient with respect to the strong view is that of this cross-entropy, including the gradient
of d. Its gradient with respect to the weak view is that of the entropy of p alone.

A pixel counts only if the confidence of its weak prediction exceeds a threshold. Thresholds are
fixed, or they adapt for each class while the network trains (Mei et al., IAST, 2020, in the form of
TUFL). The adaptive thresholds theta [K] belong to the train state: a checkpoint stores them, and a
resumed run continues with them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rtda_jax.augment.geometry import warp
from rtda_jax.errors import lookup, one_of, require
from rtda_jax.losses import Sum

LEAST = 1e-8  # the least loss of a pixel; below it there is no gradient
LOG_LEAST = -69.07755  # ln 1e-30
INSTEAD_OF_ONE = 0.999  # a threshold of 1 would let no prediction pass

# The distance d between the views at the weak view's class, of p'_k and q_k [B,H,W].
FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "difference": lambda weak, strong: jnp.abs(weak - strong),  # "focal" in TUFL, focal_type 2
    "deficit": lambda weak, strong: 1.0 - strong,  # "adapt_focal" in TUFL, focal_type 1
}
THRESHOLDS = ("fixed", "adaptive")

# Confidences become integers that sort like them: 27 bits for the value, 5 for the class.
_VALUE_BITS, _CLASS_BITS = 27, 5
MOST_CLASSES = 2**_CLASS_BITS - 1  # whose thresholds can adapt
_LOWEST = 2.0**-15


@dataclasses.dataclass(frozen=True)
class ConsistencyOptions:
    """The section `consistency` of a configuration, with TUFL's numbers.

    Attributes:
      form: the distance between the views, a key of `FORMS`.
      gamma: the focusing exponent, 0 for plain cross-entropy or at least 1.
      temperature: the number that the weak view's logits are divided by.
      threshold: "fixed" at `initial` for all classes, or "adaptive" for each class.
      initial: the threshold of every class at the first step, in (0, 1).
      alpha: the weight of the old threshold in an update, in [0, 1].
      beta: the largest share of a class's pixels that pass, in (0, 1].
      d: the exponent that lowers this share while the threshold is low, to beta theta^d.
      decay: if above 0, the weight of the old threshold grows with the step t as
        1 - alpha exp(-decay t).
    """

    form: str = "difference"
    gamma: float = 2.0
    temperature: float = 1.0
    threshold: str = "fixed"
    initial: float = 0.8
    alpha: float = 0.9
    beta: float = 0.8
    d: float = 8.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        one_of(self.form, FORMS, "consistency.form")
        one_of(self.threshold, THRESHOLDS, "consistency.threshold")
        for name, valid, range_ in (
            ("gamma", self.gamma == 0 or self.gamma >= 1, "0 or at least 1"),
            ("temperature", self.temperature > 0, "above 0"),
            ("initial", 0 < self.initial < 1, "a probability in (0, 1)"),
            ("alpha", 0 <= self.alpha <= 1, "in [0, 1]"),
            ("beta", 0 < self.beta <= 1, "in (0, 1]"),
            ("d", self.d >= 0, "at least 0"),
            ("decay", self.decay >= 0, "at least 0"),
        ):
            value = getattr(self, name)
            require(valid, f"consistency.{name} must be {range_}, got {value:g}")

    @property
    def adapts(self) -> bool:
        """Whether thresholds are state."""
        return self.threshold == "adaptive"


def focal(
    weak: jax.Array,
    strong: jax.Array,
    *,
    form: str = "difference",
    gamma: float = 2.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Computes the unsupervised focal loss of each pixel.

    Args:
      weak: logits [B,H,W,K] of the weak view, moved to the pixels of the strong view.
      strong: logits [B,H,W,K] of the strong view.
      form: a key of `FORMS`.
      gamma: focusing exponent; between 0 and 1 its gradient would be infinite at d = 0.
      class_weights: w, float [K], or None for 1.

    Returns:
      float32 [B,H,W], at least 1e-8.

    Raises:
      ConfigError: the form is unknown or the exponent lies in (0, 1) or below 0.
    """
    distance = lookup(FORMS, form, "form of the unsupervised focal loss")
    require(gamma == 0 or gamma >= 1, f"gamma must be 0 or at least 1, got {gamma:g}")
    log_p = jnp.maximum(jax.nn.log_softmax(weak.astype(jnp.float32)), LOG_LEAST)
    log_q = jnp.maximum(jax.nn.log_softmax(strong.astype(jnp.float32)), LOG_LEAST)
    p = jnp.exp(log_p)
    pseudo = lax.stop_gradient(p)
    winner = pseudo.argmax(axis=-1, keepdims=True)
    d = distance(
        jnp.take_along_axis(pseudo, winner, axis=-1),
        jnp.take_along_axis(jnp.exp(log_q), winner, axis=-1),
    )
    entropy = -p * log_p
    # The value contains only the cross-entropy, the weak view's gradient only the entropy.
    loss = -(d**gamma) * pseudo * log_q + (entropy - lax.stop_gradient(entropy))
    if class_weights is not None:
        loss = loss * jnp.asarray(class_weights, jnp.float32).reshape(1, 1, 1, -1)
    return jnp.maximum(loss.sum(axis=-1), LEAST)


def sure(weak: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Returns where the confidence of the weak prediction exceeds the threshold, bool [B,H,W].

    Args:
      weak: logits [B,H,W,K].
      threshold: one number, or float [K] with one threshold for each predicted class.
    """
    confidence, labels = predict(weak)
    threshold = jnp.asarray(threshold, jnp.float32)
    return confidence > (threshold if threshold.ndim == 0 else jnp.take(threshold, labels))


def predict(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the highest probability and its class, [B,H,W] each, without gradient."""
    probabilities = jax.nn.softmax(lax.stop_gradient(logits).astype(jnp.float32))
    return probabilities.max(axis=-1), probabilities.argmax(axis=-1)


def initial_thresholds(options: ConsistencyOptions, *, num_classes: int) -> jax.Array:
    """Returns theta before the first step, float32 [K]."""
    return jnp.full(num_classes, options.initial, jnp.float32)


def compare(
    outputs: Mapping[str, Mapping[str, jax.Array]],
    matrices: jax.Array,
    memory: Mapping[str, jax.Array],
    *,
    heads: Sequence[str],
    options: ConsistencyOptions,
    step: jax.Array,
    axis_name: str | None = None,
) -> tuple[dict[str, Any], dict[str, jax.Array], dict[str, Sum]]:
    """Prepares the weak view for its comparison with the strong one, and adapts the thresholds.

    Outside the moved image the logits are zero, so that the prediction is uniform and never exceeds
    a threshold. As in the original, the adaptation of thresholds counts these pixels as class 0.

    Args:
      outputs: the outputs by view; the target's are the weak view's.
      matrices: [B,2,3], the affine maps that moved the strong view.
      memory: what the method keeps between steps; "theta" where thresholds adapt.
      heads: the outputs that consistency terms read. One theta serves all of them and adapts to
        each in this order, as in the original.
      options: the options of the thresholds and the temperature.
      step: counted from 0.
      axis_name: the device axis.

    Returns:
      "weak" and "threshold" by head, to be added to the outputs; the new memory; what to log.
    """
    # All heads are moved in one call, so that the source positions are computed once.
    logits = [outputs["target"][head] for head in heads]
    moved = warp(jnp.concatenate(logits, axis=-1), matrices) / options.temperature
    weak = dict(zip(heads, jnp.split(moved, len(heads), axis=-1), strict=True))
    measured = {}
    if options.adapts:
        theta, limits = memory["theta"], {}
        for head in heads:
            theta = adapt(
                theta, *predict(weak[head]), options=options, step=step, axis_name=axis_name
            )
            limits[head] = theta
        memory = {**memory, "theta": theta}
        measured["theta"] = Sum(theta.sum(), jnp.float32(theta.size))
    else:
        limits = dict.fromkeys(heads, jnp.float32(options.initial))
    passing = sure(weak[heads[0]], limits[heads[0]])
    measured["sure"] = Sum(passing.sum(dtype=jnp.float32), jnp.float32(passing.size))
    return {"weak": weak, "threshold": limits}, dict(memory), measured


def adapt(
    theta: jax.Array,
    confidence: jax.Array,
    labels: jax.Array,
    *,
    options: ConsistencyOptions,
    step: jax.Array | int = 0,
    axis_name: str | None = None,
) -> jax.Array:
    """Returns the thresholds after an update by one batch of predictions.

    The confidences of a class's pixels, and theta itself, are sorted from high to low. Theta moves
    towards the value at position floor(n beta theta^d). The threshold of a class that is not
    predicted does not change.

    Args:
      theta: float [K].
      confidence: float [B,H,W] in (2^-15, 1], the highest probability of each pixel.
      labels: int [B,H,W], the class of that probability.
      options: the constants of the adaptation.
      step: the step, counted from 0, which the decay depends on.
      axis_name: the device axis. If given, theta adapts to the batch of all devices and is shared
        by them; the original keeps one theta on each device.

    Returns:
      float32 [K], below 1: a threshold that reaches 1 becomes 0.999.
    """
    classes = theta.shape[0]
    number = labels.ravel().astype(jnp.uint32)
    keys = _encode(confidence.ravel(), number)
    if axis_name is not None:
        keys = lax.all_gather(keys, axis_name, tiled=True)
    own = _encode(theta, jnp.arange(classes, dtype=jnp.uint32))
    keys = jnp.sort(jnp.concatenate([keys, own]))
    bounds = jnp.arange(classes + 1, dtype=jnp.uint32) << _VALUE_BITS
    starts = jnp.searchsorted(keys, bounds)
    count = jnp.diff(starts)
    place = jnp.floor(count.astype(jnp.float32) * options.beta * theta**options.d)
    place = place.astype(starts.dtype)
    reached = _decode(jnp.take(keys, starts[:-1] + jnp.minimum(place, count - 1)))
    stays: jax.Array | float = options.alpha
    if options.decay:
        stays = 1 - options.alpha * jnp.exp(-options.decay * jnp.float32(step))
    theta = theta + (1 - stays) * (reached - theta)
    return jnp.where(theta >= 1, INSTEAD_OF_ONE, theta)


def _encode(confidence: jax.Array, number: jax.Array) -> jax.Array:
    """Returns uint32 keys that grow with the class and fall with the confidence, exactly."""
    bits = lax.bitcast_convert_type(
        jnp.clip(confidence.astype(jnp.float32), _LOWEST, 1.0), jnp.uint32
    )
    return (number << _VALUE_BITS) + (_bits_of_one() - bits)


def _decode(keys: jax.Array) -> jax.Array:
    bits = _bits_of_one() - (keys & jnp.uint32(2**_VALUE_BITS - 1))
    return lax.bitcast_convert_type(bits, jnp.float32)


def _bits_of_one() -> jax.Array:
    return lax.bitcast_convert_type(jnp.float32(1), jnp.uint32)
