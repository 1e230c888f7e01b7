"""The named terms of an objective: pure functions of (outputs, batch) that return (sum, count).

`outputs` is what the networks made of one batch:

  outputs[view]                          the segmentation network's heads for batch[f"{view}_image"]
  outputs["weak"][head]                  the target's, moved to where the strong view sees them
  outputs["threshold"][head]             how sure it must be, from `consistency.make_remember`
  outputs["judged_source"][level]        a discriminator's logits for the source, [B,h,w,1]
  outputs["judged_target"][level]        ... and for the target

A term adds up its per-pixel loss and says over how many pixels, so that the step can divide by
the count of all devices: a mean of per-device masked means is wrong.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtda_jax import losses
from rtda_jax.adapt import consistency
from rtda_jax.errors import lookup

SOURCE, TARGET = 0.0, 1.0  # the discriminator's labels, in every paper's code

Outputs = Mapping[str, Mapping[str, jax.Array]]
Batch = Mapping[str, jax.Array]
Sums = tuple[jax.Array, jax.Array]
PixelLoss = Callable[[jax.Array, jax.Array], Sums]
Disagreement = Callable[..., jax.Array]
ClassWeights = Callable[[], jax.Array | None]


class Term(NamedTuple):
    """A term and what has to be computed for it."""

    evaluate: Callable[[Outputs, Batch], Sums]
    views: frozenset[str]  # whose images go through the segmentation network
    head: str  # the output it reads
    level: str | None = None  # the discriminator it needs


# The suffix of a term's name says which head it reads.
HEADS = {"": "logits", **{f"_aux{scale}": f"aux{scale}" for scale in (4, 8, 16, 32)}}

GAN_LOSSES = {"bce": losses.binary_cross_entropy, "least_squares": losses.least_squares}


def _supervised(head: str, *, view: str, labels: str, pixel_loss: PixelLoss) -> Term:
    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        return pixel_loss(outputs[view][head], batch[labels])

    return Term(evaluate, frozenset({view}), head)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> Sums:
    loss = losses.cross_entropy(logits, labels)
    return loss.sum(), losses.valid(labels).sum(dtype=jnp.float32)


def _mixed(head: str, weights: ClassWeights) -> Term:
    """Cross-entropy of mixed images, each pixel by its weight; the mean is over all pixels."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        loss = losses.cross_entropy(
            outputs["mixed"][head], batch["mixed_label"], class_weights=weights()
        )
        return (loss * batch["mixed_weight"]).sum(), jnp.float32(loss.size)

    return Term(evaluate, frozenset({"mixed"}), head)


def _agreeing(head: str, disagreement: Disagreement, weights: ClassWeights) -> Term:
    """What the strong view makes of pixels that the weak one is sure of; the mean is over them."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        del batch
        weak, strong = outputs["weak"][head], outputs["strong"][head]
        kept = consistency.sure(weak, outputs["threshold"][head])
        loss = disagreement(weak, strong, class_weights=weights())
        return jnp.where(kept, loss, 0.0).sum(), kept.sum(dtype=jnp.float32)

    return Term(evaluate, frozenset({"target", "strong"}), head)


def _unlabelled(head: str, pixel_loss: Callable[[jax.Array], jax.Array]) -> Term:
    """A loss of the target's predictions alone, the mean over all pixels."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        loss = pixel_loss(outputs["target"][head])
        return loss.sum(), jnp.float32(loss.size)

    return Term(evaluate, frozenset({"target"}), head)


def _deceive(level: str, head: str, gan_loss: Callable) -> Term:
    """The generator's side: the target should be taken for the source."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        loss = gan_loss(outputs["judged_target"][level], domain=SOURCE)
        return loss.sum(), jnp.float32(loss.size)

    return Term(evaluate, frozenset({"source", "target"}), head, level)


def generator_terms(
    *,
    pixel_loss: PixelLoss,
    levels: Mapping[str, str],
    gan_loss: str,
    eta: float = 2.0,
    disagreement: Disagreement = consistency.focal,
    class_weights: ClassWeights = lambda: None,
) -> dict[str, Term]:
    """Every term a segmentation network can be trained on, by the name the config gives it.

    Args:
      pixel_loss: of the labelled domain, from `losses.pixel_loss`.
      levels: the head each discriminator level reads.
      gan_loss: a key of `GAN_LOSSES`.
      eta: exponent of FDA's robust entropy.
      disagreement: (weak, strong, *, class_weights) -> loss of each pixel, see `consistency`.
      class_weights: of the mix and consistency terms.
    """
    gan = lookup(GAN_LOSSES, gan_loss, "GAN loss")
    families: dict[str, Callable[[str], Term]] = {
        # the labelled domain
        "seg": lambda head: _supervised(
            head, view="source", labels="source_label", pixel_loss=pixel_loss
        ),
        # target images with the labels of a pseudo_label stage
        "pseudo": lambda head: _supervised(
            head, view="target", labels="target_label", pixel_loss=_cross_entropy
        ),
        # target images with pasted source classes, labelled by the teacher
        "mix": lambda head: _mixed(head, class_weights),
        # a strong view of the target against a weak one
        "consistency": lambda head: _agreeing(head, disagreement, class_weights),
        "minent": lambda head: _unlabelled(head, losses.entropy),
        "robust_entropy": lambda head: _unlabelled(
            head, lambda logits: losses.robust_entropy(logits, eta=eta)
        ),
    }
    known = {
        f"{name}{suffix}": make(head)
        for name, make in families.items()
        for suffix, head in HEADS.items()
    }
    return known | {f"adv_{level}": _deceive(level, head, gan) for level, head in levels.items()}


def discriminator_terms(level: str, *, gan_loss: str) -> dict[str, Callable]:
    """What the discriminator of one level is trained on: tell source (0) from target (1)."""
    gan = lookup(GAN_LOSSES, gan_loss, "GAN loss")

    def judge(domain: str, label: float) -> Callable[[Outputs, Batch], Sums]:
        def evaluate(outputs: Outputs, batch: Batch) -> Sums:
            loss = gan(outputs[f"judged_{domain}"][level], domain=label)
            return loss.sum(), jnp.float32(loss.size)

        return evaluate

    return {
        f"d_{level}_source": judge("source", SOURCE),
        f"d_{level}_target": judge("target", TARGET),
    }


def select(
    terms: Mapping[str, Term], weights: Mapping[str, float]
) -> dict[str, tuple[Term, float]]:
    """The active terms with their weights; a term of weight 0 is not traced at all."""
    active = {}
    for name, weight in weights.items():
        term = lookup(terms, name, "term of the objective")
        if weight:
            active[name] = (term, float(weight))
    if not active:
        raise ValueError("the objective has no term of non-zero weight")
    return active


def views(active: Mapping[str, tuple[Term, float]]) -> frozenset[str]:
    """The images that have to go through the segmentation network."""
    return frozenset().union(*(term.views for term, _ in active.values()))


def formula(active: Mapping[str, tuple[Term, float]]) -> str:
    """The objective in one line, for people."""
    return " + ".join(f"{weight:g}·{name}" for name, (_, weight) in active.items())
