"""Per-pixel losses: unreduced, natural logarithm, ignored pixels give 0 and no gradient."""

import jax
import jax.numpy as jnp
import optax

IGNORE = 255


def valid(labels: jax.Array) -> jax.Array:
    """True where a pixel of labels [B,H,W] counts."""
    return labels != IGNORE


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each pixel.

    Args:
      logits: float [B,H,W,K].
      labels: integer [B,H,W] in 0..K-1, or 255 where the pixel is ignored.

    Returns:
      float32 [B,H,W], 0 where ignored.
    """
    counts = valid(labels)
    # The label is replaced before the loss: a mask after it would keep the NaN of class 255.
    safe = jnp.where(counts, labels, 0).astype(jnp.int32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), safe)
    return jnp.where(counts, loss, 0.0)


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
    if class_weights is None:
        return loss
    safe = jnp.where(valid(labels), labels, 0).astype(jnp.int32)
    return loss * jnp.take(jnp.asarray(class_weights, jnp.float32), safe)


def binary_cross_entropy(logits: jax.Array, *, domain: float) -> jax.Array:
    """Cross-entropy of discriminator logits against a domain: source 0, target 1."""
    logits = logits.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, domain))


def least_squares(logits: jax.Array, *, domain: float) -> jax.Array:
    """Squared distance of discriminator outputs to a domain, source 0, target 1 (LS-GAN)."""
    return (logits.astype(jnp.float32) - domain) ** 2
