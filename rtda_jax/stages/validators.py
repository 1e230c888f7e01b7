"""Scores of a network on images whose labels are not read; what to choose settings by."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Statistics(NamedTuple):
    """Sums over pixels, enough for every score below; they add up over images.

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
    """Statistics of one image's softmax [..., K], summed on the device."""
    entropy, probability, gram = jax.device_get(_sums(probabilities))
    pixels = int(np.prod(probabilities.shape[:-1]))
    return Statistics(
        pixels, float(entropy), probability.astype(np.float64), gram.astype(np.float64)
    )


def add(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of both."""
    return Statistics(
        a.pixels + b.pixels,
        a.entropy + b.entropy,
        a.probability + b.probability,
        a.gram + b.gram,
    )


def entropy(s: Statistics) -> float:
    """Mean entropy of a pixel, nats in [0, log K]; low: the network is sure (Vu et al. 2019)."""
    return s.entropy / s.pixels


def information_maximisation(s: Statistics) -> float:
    """Entropy of the mean softmax less the mean entropy, nats in [0, log K]; high is better.

    Sure of each pixel and yet using many classes (Krause et al. 2010; Liang et al. 2020).
    """
    mean = s.probability / s.pixels
    used = mean[mean > 0]
    return float(-(used * np.log(used)).sum()) - entropy(s)


def nuclear_norm(s: Statistics) -> float:
    """Nuclear norm of the softmax matrix [N,K] over its bound sqrt(N K), (0, 1]; high is better.

    Discriminable and diverse predictions at once (Cui et al. 2020, batch nuclear-norm
    maximisation); here over every pixel of the set.
    """
    eigenvalues = np.linalg.eigvalsh(s.gram)
    return float(np.sqrt(np.maximum(eigenvalues, 0)).sum() / np.sqrt(s.pixels * len(s.gram)))


# From the target's images alone.
VALIDATORS = {
    "entropy": entropy,
    "information_maximisation": information_maximisation,
    "nuclear_norm": nuclear_norm,
}
# From images and labels of a source split that was not trained on.
SOURCE = "source_miou"
