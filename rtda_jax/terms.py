"""The named terms of an objective: pure functions of (outputs, batch) that return (sum, count).

`outputs` is what the networks made of one batch:

  outputs["source"], outputs["target"]   the segmentation network's named outputs, [B,H,W,.]
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
from rtda_jax.errors import lookup

SOURCE, TARGET = 0.0, 1.0  # the discriminator's labels, in every paper's code

Outputs = Mapping[str, Mapping[str, jax.Array]]
Batch = Mapping[str, jax.Array]
Sums = tuple[jax.Array, jax.Array]


class Term(NamedTuple):
    """A term and what has to be computed for it."""

    evaluate: Callable[[Outputs, Batch], Sums]
    domains: frozenset[str]  # whose images go through the segmentation network
    head: str  # the output it reads
    level: str | None = None  # the discriminator it needs


class Level(NamedTuple):
    """Where a discriminator looks: a view of the segmentation network's outputs."""

    head: str
    view: Callable[[Mapping[str, jax.Array]], jax.Array]


LEVELS = {
    "output": Level("logits", lambda outputs: jax.nn.softmax(outputs["logits"], axis=-1)),
    "aux16": Level("aux16", lambda outputs: jax.nn.softmax(outputs["aux16"], axis=-1)),
    "aux32": Level("aux32", lambda outputs: jax.nn.softmax(outputs["aux32"], axis=-1)),
}

PIXEL_LOSSES = {"cross_entropy": losses.cross_entropy, "focal": losses.focal}
GAN_LOSSES = {"bce": losses.binary_cross_entropy, "least_squares": losses.least_squares}


def _segmentation(head: str, pixel_loss: Callable) -> Term:
    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        labels = batch["source_label"]
        loss = pixel_loss(outputs["source"][head], labels)
        return loss.sum(), losses.valid(labels).sum(dtype=jnp.float32)

    return Term(evaluate, frozenset({"source"}), head)


def _deceive(level: str, gan_loss: Callable) -> Term:
    """The generator's side: the target should be taken for the source."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sums:
        loss = gan_loss(outputs["judged_target"][level], domain=SOURCE)
        return loss.sum(), jnp.float32(loss.size)

    return Term(evaluate, frozenset({"source", "target"}), LEVELS[level].head, level)


def generator_terms(*, pixel_loss: str, gan_loss: str) -> dict[str, Term]:
    """Every term a segmentation network can be trained on, by the name the config gives it."""
    pixel = lookup(PIXEL_LOSSES, pixel_loss, "pixel loss")
    gan = lookup(GAN_LOSSES, gan_loss, "GAN loss")
    return {
        "seg": _segmentation("logits", pixel),
        "seg_aux16": _segmentation("aux16", pixel),
        "seg_aux32": _segmentation("aux32", pixel),
        "adv_output": _deceive("output", gan),
        "adv_aux16": _deceive("aux16", gan),
        "adv_aux32": _deceive("aux32", gan),
    }


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


def formula(active: Mapping[str, tuple[Term, float]]) -> str:
    """The objective in one line, for people."""
    return " + ".join(f"{weight:g}·{name}" for name, (_, weight) in active.items())
