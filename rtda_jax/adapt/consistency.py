"""Unsupervised focal loss: a strong view should agree with what a weak view is sure of (TUFL, S4).

Per pixel, p = softmax of the weak view's logits, q of the strong view's, p' = p without gradient
and k = argmax p':

  loss = sum_c w_c [ p'_c (ln p'_c - d^gamma ln q_c) - p_c ln p_c ]

Its value is the focal cross-entropy -d^gamma sum_c w_c p'_c ln q_c: the other terms cancel. Its
gradient is that of this cross-entropy, through d as well, for the strong view, and that of the
entropy of p, and nothing else, for the weak view.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rtda_jax.adapt.thresholds import Thresholds, adapt
from rtda_jax.augment.geometry import warp
from rtda_jax.errors import lookup

LEAST = 1e-8  # a pixel's loss is no smaller, and below it has no gradient
LOG_LEAST = -69.07755  # ln 1e-30

# The distance d between the views at the weak view's class, of p'_k and q_k [B,H,W].
FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "difference": lambda weak, strong: jnp.abs(weak - strong),  # S4's "focal", focal_type 2
    "deficit": lambda weak, strong: 1.0 - strong,  # S4's "adapt_focal", focal_type 1
}


def focal(
    weak: jax.Array,
    strong: jax.Array,
    *,
    form: str = "difference",
    gamma: float = 2.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """The unsupervised focal loss of each pixel.

    Args:
      weak: logits [B,H,W,K] of the weak view, moved to where the strong view sees them.
      strong: logits [B,H,W,K] of the strong view.
      form: a key of `FORMS`.
      gamma: focusing exponent, 0 (plain cross-entropy) or at least 1.
      class_weights: w, float [K], or None for 1.

    Returns:
      float32 [B,H,W], at least 1e-8.

    Raises:
      ValueError: unknown form, or an exponent whose gradient is infinite at d = 0.
    """
    distance = lookup(FORMS, form, "form of the unsupervised focal loss")
    if gamma != 0 and gamma < 1:
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma:g}")
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
    # Of the value only the cross-entropy is left, of the weak view only the entropy's gradient.
    loss = -(d**gamma) * pseudo * log_q + (entropy - lax.stop_gradient(entropy))
    if class_weights is not None:
        loss = loss * jnp.asarray(class_weights, jnp.float32).reshape(1, 1, 1, -1)
    return jnp.maximum(loss.sum(axis=-1), LEAST)


def sure(weak: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Pixels whose weak prediction is surer than the threshold, bool [B,H,W] of logits [B,H,W,K].

    threshold: one number, or float [K] with one for each class, then that of the predicted class.
    """
    confidence, labels = predicted(weak)
    threshold = jnp.asarray(threshold, jnp.float32)
    return confidence > (threshold if threshold.ndim == 0 else jnp.take(threshold, labels))


def predicted(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Highest probability and its class, [B,H,W] each, of logits [B,H,W,K]; no gradient."""
    probabilities = jax.nn.softmax(lax.stop_gradient(logits).astype(jnp.float32))
    return probabilities.max(axis=-1), probabilities.argmax(axis=-1)


def make_remember(
    heads: Sequence[str],
    *,
    thresholds: Thresholds | None,
    fixed: float,
    temperature: float = 1.0,
    axis_name: str | None = None,
) -> Callable[..., tuple[dict, dict, dict]]:
    """A function (outputs, batch, memory) -> (outputs, memory, what to log) for the train step.

    It adds outputs["weak"], the target's logits of each head moved by batch["strong_affine"], and
    outputs["threshold"]. Outside the moved image logits are zero, the prediction uniform and so
    never sure; as in the original these pixels still count as class 0 where thresholds adapt.

    Args:
      heads: outputs of the network that consistency terms read. One theta serves all of them and
        adapts to each in this order, as in the original.
      thresholds: how memory["theta"] adapts; None: every class has the fixed one.
      fixed: threshold of all classes.
      temperature: the weak view's logits are divided by it.
      axis_name: the device axis.
    """
    if temperature <= 0:
        raise ValueError(f"consistency.temperature must be above 0, got {temperature:g}")

    def remember(outputs: dict, batch: Mapping, memory: dict) -> tuple[dict, dict, dict]:
        # All heads at once: one look-up of each pixel's place.
        logits = [outputs["target"][head] for head in heads]
        moved = warp(jnp.concatenate(logits, axis=-1), batch["strong_affine"]) / temperature
        weak = dict(zip(heads, jnp.split(moved, len(heads), axis=-1), strict=True))
        measured: dict[str, Any] = {}
        if thresholds is None:
            limits: dict[str, Any] = dict.fromkeys(heads, fixed)
        else:
            theta, limits = memory["theta"], {}
            for head in heads:
                theta = adapt(
                    theta,
                    *predicted(weak[head]),
                    how=thresholds,
                    step=batch["step"],
                    axis_name=axis_name,
                )
                limits[head] = theta
            memory = {**memory, "theta": theta}
            measured["theta"] = theta.sum(), jnp.float32(theta.size)
        kept = sure(weak[heads[0]], limits[heads[0]])
        measured["sure"] = kept.sum(dtype=jnp.float32), jnp.float32(kept.size)
        return {**outputs, "weak": weak, "threshold": limits}, memory, measured

    return remember
