"""Unsupervised focal loss: a strong view should agree with what a weak view is sure of (TUFL, S4).

Per pixel, p = softmax of the weak view's logits, q of the strong view's, p' = p without gradient
and k = argmax p':

  loss = sum_c w_c [ p'_c (ln p'_c - d^gamma ln q_c) - p_c ln p_c ]

Its value is the focal cross-entropy -d^gamma sum_c w_c p'_c ln q_c: the other terms cancel. Its
gradient is that of this cross-entropy, through d as well, for the strong view, and that of the
entropy of p, and nothing else, for the weak view.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

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
    form: str,
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
