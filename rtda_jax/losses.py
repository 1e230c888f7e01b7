"""Per-pixel losses: unreduced, natural logarithm, ignored pixels give 0 and no gradient."""

import math

import jax
import jax.numpy as jnp
import optax
from jax import lax

IGNORE = 255


def valid(labels: jax.Array) -> jax.Array:
    """True where a pixel of labels [B,H,W] counts."""
    return labels != IGNORE


def label_weights(labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    """The weight of each pixel's class: float32 [B,H,W] of class_weights [K], 0 where ignored."""
    counts = valid(labels)
    safe = jnp.where(counts, labels, 0).astype(jnp.int32)
    return jnp.where(counts, jnp.take(jnp.asarray(class_weights, jnp.float32), safe), 0.0)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, class_weights: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy w_y * -ln p_y of each pixel.

    Args:
      logits: float [B,H,W,K].
      labels: integer [B,H,W] in 0..K-1, or 255 where the pixel is ignored.
      class_weights: float [K], or None for 1.

    Returns:
      float32 [B,H,W], 0 where ignored.
    """
    counts = valid(labels)
    # The label is replaced before the loss: a mask after it would keep the NaN of class 255.
    safe = jnp.where(counts, labels, 0).astype(jnp.int32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), safe)
    loss = jnp.where(counts, loss, 0.0)
    return loss if class_weights is None else loss * label_weights(labels, class_weights)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float = 2.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Focal loss (1 - p)^gamma * w_y * -ln p (S0: gamma is 1 in the text, 2 in the code).

    Args:
      logits: float [B,H,W,K].
      labels: integer [B,H,W] in 0..K-1, or 255 where the pixel is ignored.
      gamma: focusing exponent, >= 0; 0 gives the (weighted) cross-entropy.
      class_weights: float [K], or None for 1.

    Returns:
      float32 [B,H,W], 0 where ignored.
    """
    loss = cross_entropy(logits, labels)
    # expm1 keeps 1 - p exact near p = 1; the floor keeps the gradient of x^gamma finite at 0.
    miss = jnp.maximum(-jnp.expm1(-loss), 1e-12)
    loss = miss**gamma * loss
    return loss if class_weights is None else loss * label_weights(labels, class_weights)


def hardest(
    loss: jax.Array, labels: jax.Array, *, probability: float = 0.7, rule: str = "pixels"
) -> tuple[jax.Array, jax.Array]:
    """Online hard example mining: sum and number of the pixels whose loss is kept.

    Kept are the pixels with p_y < probability, and at least the n_min hardest. Rule "pixels" has
    n_min = BHW/16 and ranks ignored pixels as losses of 0 (STDC, S4, the older CoinCheung code);
    rule "valid" has n_min = valid/16 (today's). The ranking is over the arrays given: of several
    devices each keeps its own hardest pixels, as in the distributed originals. Where pixels tie
    at the boundary they share what is left of n_min, so that the value is exact and the gradient
    depends on no order.

    Args:
      loss: float [B,H,W], 0 where ignored.
      labels: integer [B,H,W].
      probability: in (0, 1).
      rule: a key of `HARDEST`.
    """
    flat = lax.stop_gradient(loss).ravel()
    descending = jnp.sort(flat, descending=True)
    least = HARDEST[rule](labels)
    confident = -jnp.log(jnp.float32(probability))
    beyond = flat > confident
    # Ranks count from 0: "pixels" compares the first loss past n_min, as its code has it.
    enough = (
        descending[least] > confident if rule == "pixels" else beyond.sum(dtype=jnp.int32) >= least
    )
    boundary = descending[jnp.maximum(least - 1, 0)]
    above, tied = flat > boundary, flat == boundary
    left = (least - above.sum(dtype=jnp.int32)).astype(jnp.float32)
    share = left / jnp.maximum(tied.sum(dtype=jnp.float32), 1.0)
    top = jnp.where(above, 1.0, jnp.where(tied & (least > 0), share, 0.0))
    kept = jnp.where(enough, beyond.astype(jnp.float32), top)
    return (kept * loss.ravel()).sum(), kept.sum()


def _sixteenth_of_all(labels: jax.Array) -> jax.Array:
    return jnp.int32(labels.size // 16)


def _sixteenth_of_valid(labels: jax.Array) -> jax.Array:
    return valid(labels).sum(dtype=jnp.int32) // 16


HARDEST = {"pixels": _sixteenth_of_all, "valid": _sixteenth_of_valid}


def self_information(logits: jax.Array) -> jax.Array:
    """-p_k log_K p_k of each class, float32 of the shape of logits [..,K] (ADVENT, Vu et al. 2019).

    The sum over the classes is the entropy in [0,1]; 1 is the uniform prediction.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.exp(log_p) * log_p / math.log(logits.shape[-1])


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of each pixel's prediction in [0,1], float32 [B,H,W] of logits [B,H,W,K]."""
    return self_information(logits).sum(axis=-1)


def robust_entropy(logits: jax.Array, *, eta: float = 2.0) -> jax.Array:
    """(e^2 + 1e-8)^eta of the entropy e (Yang & Soatto 2020, eq. 5; their ln 19 is ln K here)."""
    return (entropy(logits) ** 2 + 1e-8) ** eta


def binary_cross_entropy(logits: jax.Array, *, domain: float) -> jax.Array:
    """Cross-entropy of discriminator logits against a domain: source 0, target 1."""
    logits = logits.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, domain))


def least_squares(logits: jax.Array, *, domain: float) -> jax.Array:
    """Squared distance of discriminator outputs to a domain, source 0, target 1 (LS-GAN)."""
    return (logits.astype(jnp.float32) - domain) ** 2
