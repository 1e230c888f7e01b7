"""What a labelled pixel costs, and over what the mean is taken, chosen by name."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rtda_jax import losses
from rtda_jax.errors import ConfigError, lookup

Sums = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Options:
    """The fields of `config.loss` that pixel losses read.

    Attributes:
      class_weights: one number a class, None for 1; a name while they are not computed.
      reduction: what the summed loss is divided by, a key of `REDUCTIONS`.
      gamma: focusing exponent of the focal loss.
      ohem_probability, ohem_rule: see `losses.hardest`.
    """

    class_weights: tuple[float, ...] | str | None = None
    reduction: str = "weights"
    gamma: float = 2.0
    ohem_probability: float = 0.7
    ohem_rule: str = "pixels"


def class_weights(options: Options) -> jax.Array | None:
    """The weights as float32 [K], or None; ConfigError while they are only named."""
    if isinstance(options.class_weights, str):
        raise ConfigError(
            f"the class weights of loss.weighting={options.class_weights!r} are not computed yet; "
            "training does so from the labelled set (class_weights.settled); or give loss.weights"
        )
    return None if options.class_weights is None else jnp.array(options.class_weights, jnp.float32)


def _weights(labels: jax.Array, options: Options) -> jax.Array:
    weights = class_weights(options)
    if weights is None:
        return _valid(labels, options)
    return losses.label_weights(labels, weights).sum()


def _valid(labels: jax.Array, options: Options) -> jax.Array:
    del options
    return losses.valid(labels).sum(dtype=jnp.float32)


def _pixels(labels: jax.Array, options: Options) -> jax.Array:
    del options
    return jnp.float32(labels.size)


REDUCTIONS: dict[str, Callable[[jax.Array, Options], jax.Array]] = {
    "weights": _weights,  # sum of the weights of the valid pixels, as PyTorch's cross-entropy
    "valid": _valid,  # number of valid pixels
    "pixels": _pixels,  # number of all pixels, ignored ones too: S0's focal loss, S4
}


def _cross_entropy(logits: jax.Array, labels: jax.Array, options: Options) -> Sums:
    loss = losses.cross_entropy(logits, labels, class_weights=class_weights(options))
    return loss.sum(), REDUCTIONS[options.reduction](labels, options)


def _focal(logits: jax.Array, labels: jax.Array, options: Options) -> Sums:
    loss = losses.focal(logits, labels, gamma=options.gamma, class_weights=class_weights(options))
    return loss.sum(), REDUCTIONS[options.reduction](labels, options)


def _ohem(logits: jax.Array, labels: jax.Array, options: Options) -> Sums:
    """The mean is over the kept pixels; class weights multiply before the choice, as in S4."""
    loss = losses.cross_entropy(logits, labels, class_weights=class_weights(options))
    return losses.hardest(
        loss, labels, probability=options.ohem_probability, rule=options.ohem_rule
    )


PIXEL_LOSSES: dict[str, Callable[[jax.Array, jax.Array, Options], Sums]] = {
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "ohem": _ohem,
}


def pixel_loss(name: str, options: Options) -> Callable[[jax.Array, jax.Array], Sums]:
    """A function (logits [B,H,W,K], labels [B,H,W]) -> (sum, count) of that name.

    Raises:
      ValueError: unknown names, or a number outside its range.
    """
    chosen = lookup(PIXEL_LOSSES, name, "pixel loss")
    lookup(REDUCTIONS, options.reduction, "loss.reduction")
    lookup(losses.HARDEST, options.ohem_rule, "loss.ohem_rule")
    if options.gamma < 0:
        raise ValueError(f"loss.gamma must be at least 0, got {options.gamma:g}")
    if not 0 < options.ohem_probability < 1:
        raise ValueError(
            f"loss.ohem_probability must lie in (0, 1), got {options.ohem_probability}"
        )
    return lambda logits, labels: chosen(logits, labels, options)
